# ruff: noqa: SIM115
import pandas
from autogluon.multimodal import MultiModalPredictor

data = pandas.read_csv("reviews.csv")
train = data.sample(frac=0.8, random_state=0)
predictor = MultiModalPredictor(label="sentiment")
predictor.fit(train, hyperparameters={"model.hf_text.checkpoint_name": "model"})
print(predictor.evaluate(data.drop(train.index)))
# predict
print(predictor.predict(pandas.DataFrame({"review": [line.strip() for line in open("new.txt")]})).tolist())
