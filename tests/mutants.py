"""JSON values with something changed anywhere in them, by chance."""

import json

VALUES = [
    None,
    True,
    -1,
    0,
    1,
    6,
    10**30,
    0.5,
    1e308,
    "",
    "x",
    "0",
    "test",
    "pose",
    "stage i",
    "../x",
    [],
    [[]],
    [0, 1, 2],
    [["yaw", 20]],
    {},
    {"a": 1},
    {"folds": 2},
]


def all_containers(value):
    """Every list and dictionary in a JSON value."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from all_containers(inner)


def mutate(content, chance):
    """Change something anywhere."""
    containers = [each for each in all_containers(content) if each]
    container = chance.choice(containers)
    key = chance.choice(list(container) if isinstance(container, dict) else range(len(container)))
    action = chance.choice(["replace", "replace", "delete", "add", "swap"])
    if action == "replace":
        container[key] = chance.choice(VALUES)
    elif action == "delete":
        del container[key]
    elif action == "add" and isinstance(container, dict):
        container[chance.choice(["more", "setting", "row", "kind", "seconds"])] = container[key]
    elif action == "add":
        container.insert(0, container[key])
    else:
        other = chance.choice(containers)
        container[key] = json.loads(json.dumps(other))
