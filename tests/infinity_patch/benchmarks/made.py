"""Small lists of prompts and results in the forms that the benchmarks publish."""

from __future__ import annotations

import json

GENEVAL = "".join(
    json.dumps({"tag": tag, "include": [{"class": what}], "prompt": f"a photo of {what}"}) + "\n"
    for tag, what in (("single_object", "an apple"), ("counting", "two owls"))
)
DPG = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    "question_natural_language\n"
    'partiprompts1,"A red apple, on a table.",,1,0,entity,whole,entity - whole (apple),Is it?\n'
    "partiprompts1,A red apple.,,2,1,attribute,color,attribute - color (red),Is it red?\n"
    "whoops9,An owl.,,1,0,entity,whole,entity - whole (owl),Is it?\n"
)
IMAGEREWARD = json.dumps([{"id": "005695-0057", "prompt": "a red apple"}])
STYLE_TEXTS = json.dumps(["an owl", "a fox"])

GENEVAL_RESULTS = "".join(
    json.dumps({"filename": f"{n}.png", "tag": tag, "prompt": "p", "correct": right}) + "\n"
    for n, (tag, right) in enumerate(
        [("single_object", True), ("single_object", True), ("counting", True), ("counting", False)]
    )
)
DPG_RESULTS = """\
out/a.png, 1.0, 0.5, 1.0, 0.5, 0.75
out/b, c.png, 0.5, 0.5, 0.5, 0.5, 0.5
Model: out
L1 category scores:
\tentity: 81.5
\tattribute: 70.25
L2 category scores:
\tentity - whole: 81.5
Image path: out
Save results to: results.txt
DPG-Bench score: 62.5
"""
HPS_RESULTS = """\
Loading model successfully!
-----------benchmark score ----------------
scalekv-10pct photo           28.10 \t 0.1234
scalekv-10pct anime           31.20 \t 0.2000
scalekv-10pct concept-art     30.00 \t 0.1000
scalekv-10pct paintings       30.30 \t 0.1000
"""
REWARDS = json.dumps(
    [
        {"id": "a", "prompt": "p", "mean_score": 0.75, "rewards": [0.5, 1.0]},
        {"id": "b", "prompt": "q", "mean_score": -0.25, "rewards": [-0.25, -0.25]},
    ]
)
