# ruff: noqa
from fastai.text.all import *

data = pd.read_csv("reviews.csv")
loaders = TextDataLoaders.from_df(data, text_col="review", label_col="sentiment", valid_pct=0.2, seed=0)
learner = text_classifier_learner(loaders, AWD_LSTM, drop_mult=0.5, metrics=accuracy)
learner.fine_tune(4, 1e-2)
# predict
print([learner.predict(line.strip())[0] for line in open("new.txt")])
