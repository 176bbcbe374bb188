# ruff: noqa: SIM115
# As in the guide "Text classification" of transformers: its learning rate, batch and epochs.
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)

names = ["negative", "positive"]
data = load_dataset("csv", data_files="reviews.csv")["train"].train_test_split(test_size=0.2, seed=0)
tokenizer = AutoTokenizer.from_pretrained("model")


def tokenize(batch):
    return tokenizer(batch["review"], truncation=True) | {"label": [names.index(name) for name in batch["sentiment"]]}


def accuracy(evaluated):
    return {"accuracy": (evaluated.predictions.argmax(-1) == evaluated.label_ids).mean()}


tokens = data.map(tokenize, batched=True)
model = AutoModelForSequenceClassification.from_pretrained(
    "model", num_labels=2, id2label=dict(enumerate(names)), label2id={name: n for n, name in enumerate(names)}
)
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir="trained",
        learning_rate=2e-5,
        per_device_train_batch_size=16,
        num_train_epochs=2,
        weight_decay=0.01,
    ),
    train_dataset=tokens["train"],
    eval_dataset=tokens["test"],
    processing_class=tokenizer,
    data_collator=DataCollatorWithPadding(tokenizer=tokenizer),
    compute_metrics=accuracy,
)
trainer.train()
print(trainer.evaluate())
# predict
print(pipeline("text-classification", model=model, tokenizer=tokenizer)([line.strip() for line in open("new.txt")]))
