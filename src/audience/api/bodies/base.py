"""What the bodies of requests have in common."""

from pydantic import BaseModel, ConfigDict

NAME = r"^\w[\w.\-]{0,99}$"


class Request(BaseModel):
    """Refuses fields that it does not know: a slip of the hand is told, not ignored."""

    model_config = ConfigDict(extra="forbid")
