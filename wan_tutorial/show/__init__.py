"""Pictures for people: arrays go in, figures and files come out; no stage of the pipeline knows about this."""
