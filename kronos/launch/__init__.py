"""From the command line to a finished run: the launcher behind train_kaggle.sh. See docs/architecture.md."""
