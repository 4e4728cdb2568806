"""Writes the sizes in `sim/data/models.json` anew: each model is built of its config by transformers, on the meta device.

Each entry holds facts of its config, and the number of parameters that its makers state. Sizes more than 1 % off are refused.

    python scripts/weigh_models.py
"""

import json
import sys
from pathlib import Path

from specdec.measure.size import facts_of

CATALOGUE = Path(__file__).parents[1] / "sim/data/models.json"


def main() -> None:
    models = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    for name, model in models.items():
        model["size"] = {
            key: int(value) if value == int(value) else value for key, value in facts_of(model["config"], name).items()
        }
        found = model["size"]["parameters"]
        if abs(found / model["parameters"] - 1) > 0.01:
            sys.exit(f"{name}: {found:,} parameters, and its makers state {model['parameters']:,}: correct its config")
        print(f"{name}: {found / 1e9:.2f} billion")
    lines = (f"{json.dumps(name)}: {json.dumps(model)}" for name, model in models.items())
    CATALOGUE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
