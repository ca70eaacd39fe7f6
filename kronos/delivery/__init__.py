"""What enters and leaves: the competition's files, submissions, packaged models. See docs/kaggle.md."""
