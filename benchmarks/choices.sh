#!/usr/bin/env bash
# Open choices, decided on training cases: the reach of context (n), the points per slice that reach the decoder, and the
# focal weight of stage 2, on one fold's held-out training cases. Stage 1 is taken from a training that is there.
#
#   benchmarks/choices.sh DATASET_ID FOLD EPOCHS1 EPOCHS2 STAGE1_CHECKPOINT OUTPUT_FOLDER
#
# Needs nnU-Net's three environment variables. Steps that are done already are skipped. The scores end in
# OUTPUT_FOLDER/TRAINER.json.
set -euo pipefail
[ $# -eq 6 ] || { sed -n '2,9p' "$0"; exit 2; }
id=$1 fold=$2 epochs1=$3 epochs2=$4 stage1=$5 out=$6

here=$(cd "$(dirname "$0")" && pwd)
export SPD_extTrainer=$here/trainers
dataset=$(basename "$(ls -d "$nnUNet_raw"/Dataset"$(printf %03d "$id")"_*)")
mkdir -p "$out/references"
for trainer in SPDTrainerContext{0,1,2,4} SPDTrainerPoints{1,3,20} SPDTrainerFocal{75,60Points1,75Points1}; do
    [ -f "$out/$trainer.json" ] && continue
    spd_train "$id" "$fold" -tr "$trainer" -epochs "$epochs1" "$epochs2" -stage1_from "$stage1" --keep_embeddings
    validation=$nnUNet_results/$dataset/${trainer}__SPDPlans__2d/fold_$fold/validation
    for file in "$validation"/*.nii.gz; do
        cp "$nnUNet_preprocessed/$dataset/gt_segmentations/$(basename "$file")" "$out/references/"
    done
    spd_evaluate -ref "$out/references" -pred "$validation" -djfile "$nnUNet_raw/$dataset/dataset.json" -o "$out/$trainer.json"
done
rm -rf "$nnUNet_preprocessed/$dataset"/stage2_embeddings_*
