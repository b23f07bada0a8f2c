"""What a built wheel holds. An editable install gets none of it: it reads the checkout itself.

Were the folders listed as `force-include`, an editable install would copy them too, and the copies
would hide the checkout for ever.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PrivateRoot(BuildHookInterface[Any]):
    """Nests the flat folders in the one name this distribution owns."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"].update(self.config["nested"])
