"""Every combination of overlays and components that the README's matrix allows is right."""

from __future__ import annotations

import re

import pytest

from k8s import checks
from k8s.combinations import (
    ALLOWED,
    INCLUDED,
    SCALERS,
    Combination,
    Matrix,
    included_components,
    largest,
    objects_with_setup,
    pairs,
    read_matrix,
    render_all,
    single,
    unordered,
    with_needed,
)
from k8s.objects import of_kind, servers
from k8s.pods import qos_class
from k8s.render import K8S, RenderError, bundle_names, parse, render, render_text

README = (K8S / "README.md").read_text()
MATRIX = read_matrix(README)
PRODUCTION = {f"overlays/{name}" for name in ("production", "gke", "eks")}
# What kustomize answers where a component with objects of its own is listed again.
TWICE = re.compile(r"already registered id|exists; can not use behavior|produces ID conflict")


def rendered(combinations) -> dict[Combination, str]:
    """Render combinations, which must not be refused."""
    texts = render_all(combinations)
    assert {str(c): str(t) for c, t in texts.items() if isinstance(t, RenderError)} == {}
    return texts


def problems_of(texts) -> list[str]:
    """Return what the checks report about rendered combinations."""
    found = []
    for combination, text in texts.items():
        objects = objects_with_setup(MATRIX, combination, text)
        for check in checks.ON_OBJECTS.values():
            found += [f"{combination}: {problem}" for problem in check(objects)]
    return found


def is_harmless(again: Combination, once: Combination) -> bool:
    """Return whether a component that is listed again changes nothing, or is refused as such."""
    texts = render_all([again, once])
    if isinstance(texts[again], RenderError):
        return bool(TWICE.search(str(texts[again])))
    return texts[again] == texts[once]


def pair_problems(matrix: Matrix) -> list[str]:
    """Return the pairs that depend on their order, or are refused against the matrix.

    The base takes every component, so that each pair of the matrix is rendered on it.
    """
    orders = {}
    for first, second in pairs(matrix):
        both = (with_needed([first, second]), with_needed([second, first]))
        orders[first, second] = [Combination("base", names) for names in both]
    texts = render_all([combination for both in orders.values() for combination in both])
    found = []
    for pair, both in orders.items():
        results = [texts[combination] for combination in both]
        refusals = [str(result) for result in results if isinstance(result, RenderError)]
        if matrix.is_excluded(pair):
            # The message has the reason; one about a patch or a path would not help.
            named = [r for r in refusals if re.search(r"cannot be combined|, without ", r)]
            if len(named) < 2:
                found.append(f"{pair}: excluded, and kustomize answers {refusals or 'nothing'}")
        elif refusals:
            found.append(f"{pair}: refused: {refusals}")
        elif {*pair} == SCALERS:
            alone = [Combination("base", names[-1:]).render() for names in (pair, pair[::-1])]
            if results != alone:
                found.append(f"{pair}: the later one does not take the place of the other")
        elif unordered(parse(results[0])) != unordered(parse(results[1])):
            found.append(f"{pair}: the order matters")
        else:
            found += problems_of({both[0]: results[0]})
    return found


def test_the_matrix_names_every_overlay_and_component():
    folders = {name: name.partition("/")[2] for name in bundle_names()}
    overlays = {folder for name, folder in folders.items() if name.startswith("overlays/")}
    components = {folder for name, folder in folders.items() if name.startswith("components/")}
    assert {*MATRIX.overlays} == overlays - {"kserve"}  # without the base
    assert {*MATRIX.components} == components


def test_a_matrix_with_a_missing_cell_is_an_error():
    for old, new in (("| `gpu` | - |", "| `gpu` |"), ("| `gpu` | - |", "| `gpu` | x |")):
        assert old in README
        with pytest.raises(ValueError, match="gpu"):
            read_matrix(README.replace(old, new))


def test_an_overlay_includes_what_the_matrix_says():
    for overlay in MATRIX.overlays:
        assert {*MATRIX.marked(overlay, INCLUDED)} == included_components(f"overlays/{overlay}")


def test_several_pods_have_a_set_up_that_every_node_can_mount():
    for overlay, setup in MATRIX.setups.items():
        (claim,) = of_kind(parse(render(f"setup/{setup}")), "PersistentVolumeClaim")
        is_scaled = not SCALERS.isdisjoint(MATRIX.marked(overlay, INCLUDED))
        mode = "ReadWriteMany" if is_scaled else "ReadWriteOnce"
        assert claim["spec"]["accessModes"] == [mode], overlay


def test_every_component_can_be_added_where_the_matrix_says_so():
    texts = rendered(single(MATRIX))
    assert len(texts) == sum(cell == ALLOWED for cell in MATRIX.cells.values())
    assert problems_of(texts) == []


@pytest.mark.long
def test_all_components_can_be_added_together():
    texts = rendered(largest(MATRIX))
    assert len(texts) > 50
    assert problems_of(texts) == []


@pytest.mark.long
def test_pairs_of_components_are_right_in_both_orders_or_refused():
    assert pair_problems(MATRIX) == []


@pytest.mark.long
def test_wrong_exclusions_are_reported():
    row = "| `model-bucket`, `model-oci`, `canary` |"
    assert row in README
    fewer = read_matrix(README.replace(row, "| `model-bucket`, `model-oci` |"))
    assert any("refused" in problem for problem in pair_problems(fewer))
    more = read_matrix(README.replace(row, row.replace("`canary`", "`canary`, `kueue`")))
    assert any("answers nothing" in problem for problem in pair_problems(more))


@pytest.mark.long
def test_a_component_that_is_listed_again_changes_nothing_or_is_refused():
    for component in MATRIX.components:
        once = with_needed([component])
        for name in once:
            assert is_harmless(Combination("base", (*once, name)), Combination("base", once))


@pytest.mark.long
def test_a_component_that_the_overlay_includes_changes_nothing_or_is_refused():
    for overlay in (f"overlays/{name}" for name in MATRIX.overlays):
        for component in MATRIX.marked(overlay.partition("/")[2], INCLUDED):
            assert is_harmless(Combination(overlay, (component,)), Combination(overlay, ()))


def test_a_slice_of_a_gpu_without_a_gpu_is_refused_by_name():
    for component in ("gpu-mig", "gpu-timeslice"):
        for names in ((component,), (component, "gpu")):
            with pytest.raises(RenderError, match=f"{component} needs component gpu before it"):
                Combination("overlays/production", names).render()


def test_the_later_autoscaler_takes_the_place_of_the_one_in_the_overlay():
    for overlay in ("production", "gke", "eks"):
        (text,) = rendered([Combination(f"overlays/{overlay}", ("autoscaling-keda",))]).values()
        kinds = [obj["kind"] for obj in parse(text)]
        assert kinds.count("ScaledObject") == 1, overlay
        assert "HorizontalPodAutoscaler" not in kinds, overlay


@pytest.mark.long
def test_production_pods_request_what_they_limit_in_every_combination():
    texts = rendered([c for c in (*single(MATRIX), *largest(MATRIX)) if c.overlay in PRODUCTION])
    for combination, text in texts.items():
        for pod in servers(parse(text)):
            assert qos_class(pod) == "Guaranteed", combination


def test_the_overlays_of_the_readme_render():
    """The blocks are the user's files, so that they are rendered as they are."""
    blocks = re.findall(r"```yaml\n(namespace: c3d\n.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        text = render_text(block)
        (component,) = re.findall(r"components/(\S+)", block)
        combination = Combination("overlays/gke", (component,))
        assert problems_of({combination: text}) == []
        values = re.findall(r"(?:MODEL_SOURCE|reference): (\S+)", block)
        assert [value for value in values if value.strip('"') not in text] == [], component
        assert text != combination.render()
