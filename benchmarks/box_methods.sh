#!/usr/bin/env bash
# Coarse boxes as the only prompts: distilled, and as they are, on one data set, with the commands a user would run.
#
#   benchmarks/box_methods.sh DATASET_ID FOLD EPOCHS1 EPOCHS2 OUTPUT_FOLDER
#
# One box per test case and class (a 3D region of interest) is simulated: the target's bounding box, each edge moved
# outward by up to half of the size and the whole shifted by up to a fifth of it (seed 1); then much coarser ones, which
# no training has seen. Needs nnU-Net's three environment variables, imagesTs and labelsTs. Steps that are done already
# are skipped. The scores end in
# OUTPUT_FOLDER/METHOD.json and OUTPUT_FOLDER/coarse/METHOD.json; benchmarks/table.py makes the tables.
set -euo pipefail
[ $# -eq 5 ] || { sed -n '2,12p' "$0"; exit 2; }
id=$1 fold=$2 epochs1=$3 epochs2=$4 out=$5

dataset=$(basename "$(ls -d "$nnUNet_raw"/Dataset"$(printf %03d "$id")"_*)")
raw=$nnUNet_raw/$dataset
results=$nnUNet_results/$dataset
stage1=$results/SPDTrainerBoxOnly__SPDPlans__2d/fold_$fold/checkpoint_final.pth
boxes=$out/boxes
mkdir -p "$out"

[ -f "$nnUNet_preprocessed/$dataset/SPDPlans.json" ] || spd_plan_and_preprocess -d "$id"
[ -d "$boxes" ] || spd_simulate_prompts -d "$id" -s Ts --seed 1 -mode boxes -box_enlarge 0.5 -box_shift 0.2 -o "$boxes"

train() { # trainer, further options
    local trainer=$1; shift
    [ -f "$results/${trainer}__SPDPlans__2d/fold_$fold/checkpoint_final.pth" ] ||
        spd_train "$id" "$fold" -tr "$trainer" -epochs "$epochs1" "$epochs2" --keep_embeddings "$@"
}

score() { # method, trainer, further options of spd_predict
    local method=$1 trainer=$2; shift 2
    [ -f "$out/$method.json" ] && return
    spd_predict -i "$raw/imagesTs" -o "$out/$method" -tr "$trainer" -f "$fold" --disable_tta "$@"
    (cd "$out" && spd_evaluate -ref "$(realpath --relative-to=. "$raw/labelsTs")" -pred "$method" -o "$method.json")
}

train SPDTrainerBoxOnly
score distilled_box SPDTrainerBoxOnly -prompts "$boxes"
score saliency_alone SPDTrainerBoxOnly --no_prompts
train SPDTrainerRawBoxOnly -stage1_from "$stage1"
score raw_box SPDTrainerRawBoxOnly -prompts "$boxes"

# the same models given boxes that are coarser than those they were trained with
coarse=$out/coarse
[ -d "$coarse/boxes" ] ||
    spd_simulate_prompts -d "$id" -s Ts --seed 1 -mode boxes -box_enlarge 1.5 -box_shift 0.5 -o "$coarse/boxes"
score coarse/distilled_box SPDTrainerBoxOnly -prompts "$coarse/boxes"
score coarse/raw_box SPDTrainerRawBoxOnly -prompts "$coarse/boxes"
rm -rf "$nnUNet_preprocessed/$dataset"/stage2_embeddings_*
