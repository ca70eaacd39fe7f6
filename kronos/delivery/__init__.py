"""What enters and leaves: the competition's files, submissions, packaged models. See docs/kaggle.md.

`client` talks to Kaggle through the `kaggle` package, `download` and `submit` are the two
commands, `ledger` is the log. `package` and `hub_push` make and publish model folders.
"""
