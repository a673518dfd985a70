"""An algorithm in a file of a user's own."""

from capsjax import registry, routing

KEY = ("routing algorithm", "fixed")
FIELDS = {"model": {"routing": {"name": "fixed", "fixed": {"share": 0.5}}}}
CODE = '''"""An algorithm."""
import dataclasses

from capsjax.routing import register


@dataclasses.dataclass(frozen=True)
class Fixed:
    share: float = 0.5

    def __call__(self, votes, activations, learned):
        return votes.mean(-3)


register("fixed", Fixed)
'''


def forget():
    routing.ROUTING.pop("fixed", None)
    registry.OWN_FILES.pop(KEY, None)
