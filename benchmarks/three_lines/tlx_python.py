# ruff: noqa: SIM115
import tlx

run = tlx.finetune("minilm-l6", train="reviews.csv")
print(run)
# predict
print(run.predict([line.strip() for line in open("new.txt")]))
