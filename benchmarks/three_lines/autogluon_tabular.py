# ruff: noqa: SIM115
import pandas
from autogluon.tabular import TabularPredictor

data = pandas.read_csv("reviews.csv")
train = data.sample(frac=0.8, random_state=0)
predictor = TabularPredictor(label="sentiment").fit(train)
print(predictor.evaluate(data.drop(train.index)))
# predict
print(predictor.predict(pandas.DataFrame({"review": [line.strip() for line in open("new.txt")]})).tolist())
