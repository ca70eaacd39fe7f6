"""One way from any model to an answer: who is asked, what is asked, and how a score becomes rise or fall."""
