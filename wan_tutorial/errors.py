"""The one error a learner sees: a sentence with the rule, the value received and the nearest fix."""


class WanError(ValueError):
    """A request that cannot be carried out, explained in one sentence for the person who made it."""
