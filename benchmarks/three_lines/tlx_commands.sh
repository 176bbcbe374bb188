tlx start reviews.csv
tlx run reviews.py
# predict
tlx predict runs/reviews new.txt
