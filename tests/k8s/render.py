"""Write every bundle as one YAML file below a folder: `python -m k8s.render build/manifests`."""

from __future__ import annotations

import sys
from pathlib import Path

from k8s.bundle import RenderError, names, parse, text


def main(out: Path) -> int:
    """Render all; one line a bundle, and 1 where kustomize refuses one."""
    failed = 0
    for name in names():
        path = out / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            rendered = text(name)
        except RenderError as error:
            path.unlink(missing_ok=True)
            print(f"{name}: {error}", file=sys.stderr)
            failed += 1
            continue
        path.write_text(rendered)
        print(f"{path}: {len(parse(rendered))} objects")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
