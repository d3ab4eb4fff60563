#!/usr/bin/env bash
# Where training prompts should come from when the user's prompts are drifting centrelines: from files, from the paper's
# recipe, or simulated to resemble the files; each with and without a peak of the saliency as prompt where no point is
# trusted. Every model predicts with centrelines. Stage 1 is taken from a training that
# is there; labelsTs are those of cases that no training has seen.
#
#   benchmarks/prompt_sources.sh DATASET_ID EPOCHS1 EPOCHS2 STAGE1_CHECKPOINT OUTPUT_FOLDER
#
# Needs nnU-Net's three environment variables, and prompts in the data set, drawn and planned with
#
#   for s in Tr Ts; do spd_simulate_prompts -d DATASET_ID -s $s -mode centreline -uncovered 0.4 -overrun 15; done
#   spd_plan_and_preprocess -d DATASET_ID -sam lite -image_size 56
#
# Steps that are done already are skipped. The scores end in OUTPUT_FOLDER/TRAINER.json.
set -euo pipefail
[ $# -eq 5 ] || { sed -n '2,16p' "$0"; exit 2; }
id=$1 epochs1=$2 epochs2=$3 stage1=$4 out=$5

here=$(cd "$(dirname "$0")" && pwd)
export SPD_extTrainer=$here/trainers
dataset=$(basename "$(ls -d "$nnUNet_raw"/Dataset"$(printf %03d "$id")"_*)")
raw=$nnUNet_raw/$dataset
mkdir -p "$out"
for trainer in SPDTrainer{,RecipePrompts,CentrelinePrompts}{,NoPeak}; do
    [ -f "$out/$trainer.json" ] && continue
    spd_train "$id" all -tr "$trainer" -epochs "$epochs1" "$epochs2" -stage1_from "$stage1" --keep_embeddings
    spd_predict -d "$id" -tr "$trainer" -f all -i "$raw/imagesTs" -prompts "$raw/promptsTs" -o "$out/$trainer"
    spd_evaluate -ref "$raw/labelsTs" -pred "$out/$trainer" -djfile "$raw/dataset.json" -o "$out/$trainer.json"
done
rm -rf "$nnUNet_preprocessed/$dataset"/stage2_embeddings_*
