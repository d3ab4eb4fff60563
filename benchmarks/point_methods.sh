#!/usr/bin/env bash
# Train and evaluate SPD, its rivals on the same points, and the ceiling, on one data set, with the commands a
# user would run. Stage 1 is trained once and shared by all methods that have one.
#
#   benchmarks/point_methods.sh DATASET_ID FOLD EPOCHS1 EPOCHS2 OUTPUT_FOLDER
#
# Needs nnU-Net's three environment variables, imagesTs and labelsTs, and prompts in promptsTs (made here by
# spd_simulate_prompts, seed 1, if there are none). Steps that are done already are skipped, so it can be run again
# after an interruption. Predictions are made without test-time mirroring. The scores end in OUTPUT_FOLDER/METHOD.json; benchmarks/table.py makes the table.
set -euo pipefail
[ $# -eq 5 ] || { sed -n '2,11p' "$0"; exit 2; }
id=$1 fold=$2 epochs1=$3 epochs2=$4 out=$5

dataset=$(basename "$(ls -d "$nnUNet_raw"/Dataset"$(printf %03d "$id")"_*)")
raw=$nnUNet_raw/$dataset
results=$nnUNet_results/$dataset
stage1=$results/SPDTrainer__SPDPlans__2d/fold_$fold/checkpoint_final.pth
mkdir -p "$out"

[ -f "$nnUNet_preprocessed/$dataset/SPDPlans.json" ] || spd_plan_and_preprocess -d "$id" --verify_dataset_integrity
[ -d "$raw/promptsTs" ] || spd_simulate_prompts -d "$id" -s Ts --seed 1
true_prompts=$out/prompts_true
[ -d "$true_prompts" ] || spd_simulate_prompts -d "$id" -s Ts --seed 1 --true_points 4 -o "$true_prompts"

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

train SPDTrainer
score spd SPDTrainer
score saliency_alone SPDTrainer --no_prompts
train SPDTrainerRawPrompts -stage1_from "$stage1"
score stage1_raw_points SPDTrainerRawPrompts
train SPDTrainerLocalOnly -stage1_from "$stage1"
score local_only SPDTrainerLocalOnly
train SPDTrainerSAMTuning
score sam_tuning SPDTrainerSAMTuning
train SPDTrainerTruePoints -stage1_from "$stage1"
score ceiling_true_points SPDTrainerTruePoints -prompts "$true_prompts"
rm -rf "$nnUNet_preprocessed/$dataset"/stage2_embeddings_*
