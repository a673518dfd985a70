"""What was chosen for a run when it was begun, where its config leaves the choice open."""

from pathlib import Path

from ml_collections import ConfigDict

from capsjax.runs.workdir import flatten, stored_fields

# Fields whose value may leave a choice to the program or to the data, and that value.
CHOSEN = {
    "class_weights": "balanced",
    "data.split": "auto",
    "model.compute.dtype": "auto",
    "train.batch_size": 0,
}


def with_choices_of_run(path: Path, config: ConfigDict) -> ConfigDict:
    """Return a config with what was chosen when the run or sweep in a folder was begun.

    The same command may mean another number type today, or another way to split own data; and what
    the data decide is decided once.
    """
    prefix = "base." if "base" in config else ""
    stored, given = stored_fields(path), flatten(config.to_dict())
    chosen = {}
    for name, choice in CHOSEN.items():
        field = f"{prefix}{name}"
        # No class weights are no choice of the data.
        if given.get(field) == choice and stored.get(field, choice) not in (choice, "none"):
            chosen[field] = stored[field]
            print(f"{path} goes on with {field}={stored[field]}, with which it began")
    if not chosen:
        return config
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(chosen)
    return config.lock()
