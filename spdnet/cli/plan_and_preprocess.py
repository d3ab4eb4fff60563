"""`spd_plan_and_preprocess` and its three steps as commands of their own."""

from __future__ import annotations

import argparse

from spdnet.cli import planning_options as steps
from spdnet.cli.common import entry_point
from spdnet.network.backbones import get_backbone
from spdnet.paths import DEFAULT_PLANS_NAME, FINGERPRINT_FILE, preprocessed_root, resolve_dataset_name
from spdnet.planning import Fingerprint, SPDPlans


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Fingerprint, plan and preprocess data sets."""
    parser = argparse.ArgumentParser("spd_plan_and_preprocess", description=main.__doc__)
    steps.add_dataset(parser)
    steps.add_fingerprint_options(parser)
    steps.add_planner_options(parser)
    parser.add_argument("--no_pp", action="store_true", help="do not preprocess")
    steps.add_processes(parser)
    args = parser.parse_args(argv)
    steps.check_planner_options(args)
    for dataset in [steps.raw_dataset(d) for d in args.d]:
        fingerprint, cases_checked = steps.run_fingerprint(dataset, args)
        plans = steps.run_planner(fingerprint, args)
        if not args.no_pp:
            steps.run_preprocessing(dataset, plans, args, cases_checked)


@entry_point
def extract_fingerprint_main(argv: list[str] | None = None) -> None:
    """Measure data sets: write spd_fingerprint.json."""
    parser = argparse.ArgumentParser("spd_extract_fingerprint", description=extract_fingerprint_main.__doc__)
    steps.add_dataset(parser)
    steps.add_fingerprint_options(parser)
    steps.add_processes(parser)
    args = parser.parse_args(argv)
    for dataset in [steps.raw_dataset(d) for d in args.d]:
        steps.run_fingerprint(dataset, args)


@entry_point
def plan_experiment_main(argv: list[str] | None = None) -> None:
    """Plan from the fingerprints: write SPDPlans.json."""
    parser = argparse.ArgumentParser("spd_plan_experiment", description=plan_experiment_main.__doc__)
    steps.add_dataset(parser)
    steps.add_planner_options(parser)
    args = parser.parse_args(argv)
    steps.check_planner_options(args)
    for name in [resolve_dataset_name(d) for d in args.d]:
        fingerprint = Fingerprint.load(preprocessed_root() / name / FINGERPRINT_FILE)
        steps.warn_if_out_of_date(fingerprint)
        steps.run_planner(fingerprint, args)


@entry_point
def preprocess_main(argv: list[str] | None = None) -> None:
    """Preprocess data sets by their plans."""
    parser = argparse.ArgumentParser("spd_preprocess", description=preprocess_main.__doc__)
    steps.add_dataset(parser)
    parser.add_argument("-plans_name", default=DEFAULT_PLANS_NAME, metavar="NAME", help="name of the plans")
    steps.add_processes(parser)
    args = parser.parse_args(argv)
    for dataset in [steps.raw_dataset(d) for d in args.d]:
        plans = SPDPlans.load_named(preprocessed_root() / dataset.folder.name, args.plans_name)
        get_backbone(plans.settings.backbone).check_image_size(plans.settings.image_size)
        steps.run_preprocessing(dataset, plans, args)
