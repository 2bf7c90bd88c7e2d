#!/usr/bin/env python3
"""Trains the example models and writes models/, data/ and vectors/ beside it.

    python3 -m venv venv && venv/bin/pip install --require-hashes -r requirements.txt
    venv/bin/python train.py

Nothing is drawn from outside scikit-learn and this file, and every seed is
fixed: on one machine the outputs are the same to the byte. The script fails
if ONNX Runtime does not give scikit-learn's labels on every held-out row, or
a probability that is further than 1e-5 from scikit-learn's.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums in one order

import csv
import pathlib
import random

import numpy as np
import onnx
import onnxruntime
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEED = 0
OPSET = {"": 18, "ai.onnx.ml": 3}  # nothing newer is needed, and older runtimes read it
TOLERANCE = 1e-5


def main():
    breast_cancer()
    digits()
    ticket_routing()


def breast_cancer():
    bunch = load_breast_cancer()
    names = [n.replace(" ", "_") for n in bunch.feature_names]
    train_x, test_x, train_y, test_y = split(float32_values(bunch.data), bunch.target)
    write_data("breast-cancer", names, test_x, test_y)
    estimators = {
        1: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        2: GradientBoostingClassifier(n_estimators=60, max_depth=3, random_state=SEED),
    }
    for version, estimator in estimators.items():
        estimator.fit(train_x, train_y)
        write_version("breast-cancer", version, estimator, "features",
                      FloatTensorType([None, len(names)]), test_x, test_y)
    # No measurement can be negative. The most seen, half as much again and
    # rounded up, leaves room for a tumour larger than any in the data and none
    # for a wrong unit.
    columns = [(name, 0, two_digits_up(1.5 * most)) for name, most in zip(names, bunch.data.max(axis=0))]
    write_manifest(
        "breast-cancer",
        "Whether a breast mass is malignant (0) or benign (1), from 30 measurements of cell nuclei "
        "in a digitised fine needle aspirate. Version 1 is a logistic regression, version 2 gradient "
        "boosting. An example; not for diagnosis.",
        "features", columns)


def digits():
    bunch = load_digits()
    train_x, test_x, train_y, test_y = split(float32_values(bunch.data), bunch.target)
    write_data("digits", bunch.feature_names, test_x, test_y)
    estimator = make_pipeline(StandardScaler(), MLPClassifier((48,), max_iter=300, random_state=SEED))
    estimator.fit(train_x, train_y)
    write_version("digits", 1, estimator, "features",
                  FloatTensorType([None, bunch.data.shape[1]]), test_x, test_y)
    write_manifest(
        "digits",
        "Which digit a handwritten 8 x 8 image shows: one small hidden layer over 64 pixels from "
        "0 (paper) to 16 (ink), row by row.",
        "features", [(name, 0, 16) for name in bunch.feature_names])


def ticket_routing():
    texts, labels = tickets()
    train_x, test_x, train_y, test_y = split(texts, labels)
    write_data("tickets", ["text"], test_x[:, None], test_y)
    estimator = make_pipeline(
        # Lower case would be made by ONNX's StringNormalizer, which needs the
        # locale en_US.UTF-8 on the machine that serves; the default pattern
        # needs \b, which ONNX Runtime's expressions lack.
        TfidfVectorizer(lowercase=False, token_pattern="[A-Za-z]{2,}"),
        LogisticRegression(C=10, max_iter=1000))
    estimator.fit(train_x, train_y)
    # ZipMap stays on here: scikit-learn's probabilities leave the graph as a
    # sequence of maps, as skl2onnx exports them unless told otherwise.
    write_version("ticket-routing", 1, estimator, "text", StringTensorType([None, 1]),
                  test_x, test_y, zipmap=True)
    write_manifest(
        "ticket-routing",
        "Which team takes a support ticket: access, billing, hardware or network. Words weighted by "
        "TF-IDF under a logistic regression; English, synthetic training text.",
        "text", [("text", None, None)], ["max_string_bytes: 2000"])


def tickets():
    """Support tickets made from parts, some of which several teams share."""
    people = ["I", "My colleague", "The whole ward", "Our intern", "Everyone on floor two", "A patient's clerk"]
    problems = {
        "access": ["cannot log in to the portal", "forgot the password again", "was locked out of the account",
                   "needs permission to the shared folder", "lost the token for the second factor",
                   "sees access denied when opening the report", "wants the old account removed"],
        "billing": ["was charged twice for the same invoice", "needs a copy of the invoice",
                    "wants a refund for the last order", "got a payment reminder for a paid invoice",
                    "asks why the price on the invoice changed", "must update the card for payment",
                    "sees the wrong tax on the bill"],
        "hardware": ["has a printer that jams on every page", "gets no picture on the second monitor",
                     "spilled coffee on the keyboard", "needs a new battery for the laptop",
                     "hears a loud fan in the laptop", "has a scanner that does not turn on",
                     "broke the screen of the tablet"],
        "network": ["has no connection to the wireless network", "cannot reach the server from home",
                    "loses the vpn every few minutes", "finds the internet very slow today",
                    "gets a timeout when opening the portal", "cannot reach the printer over the network",
                    "sees the video call drop again and again"],
    }
    openings = ["", "Hello, ", "Urgent: ", "Second time I write! "]
    endings = [".", ", please help.", " since Monday.", " and the invoice is due today.", " after the update.",
               ", also on the laptop."]
    rng = random.Random(SEED)
    texts, labels = [], []
    for label in sorted(problems):
        lines = [f"{o}{p} {q}{e}" for o in openings for p in people for q in problems[label] for e in endings]
        texts += rng.sample(lines, 75)
        labels += [label] * 75
    return np.array(texts, dtype=object), np.array(labels, dtype=object)


def split(x, y):
    return train_test_split(x, y, test_size=0.3, random_state=SEED, stratify=y)


def float32_values(x):
    """Values that a FLOAT32 tensor holds exactly, so that training, scikit-learn
    and ONNX Runtime all compare the same numbers with a tree's thresholds."""
    return x.astype(np.float32).astype(np.float64)


def two_digits_up(v):
    unit = 10.0 ** (np.floor(np.log10(v)) - 1)
    return float(f"{np.ceil(v / unit) * unit:.12g}")


def write_version(model, version, estimator, name, kind, x, y, zipmap=False):
    graph = to_onnx(estimator, initial_types=[(name, kind)], target_opset=OPSET, name=model,
                    options={"zipmap": zipmap})
    if zipmap:
        swap_names(graph, {"output_label": "label", "output_probability": "probabilities"})
    domains = sorted(graph.opset_import, key=lambda o: o.domain)  # they come in a random order
    del graph.opset_import[:]
    graph.opset_import.extend(domains)
    onnx.checker.check_model(graph)
    artifact = graph.SerializeToString()

    labels, probabilities = estimator.predict(x), estimator.predict_proba(x)
    feed = x[:, None] if x.dtype == object else x.astype(np.float32)
    session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    got_labels, got = session.run(["label", "probabilities"], {name: feed})
    if zipmap:
        got = np.array([[row[c] for c in estimator.classes_] for row in got])
    worst = np.abs(got - probabilities).max()
    if not np.array_equal(got_labels, labels) or not worst <= TOLERANCE:
        raise SystemExit(f"{model}/{version}: {np.sum(got_labels != labels)} labels differ, "
                         f"probabilities by {worst:.2g}")

    write(ROOT / "models" / model / str(version) / "model.onnx", artifact)
    with create(ROOT / "vectors" / model / f"{version}.csv") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["label"] + [f"probability_{c}" for c in estimator.classes_])
        out.writerows([label, *map(repr, map(float, row))] for label, row in zip(labels, probabilities))
    print(f"{model}/{version}: {len(artifact)} bytes, {len(y)} held-out rows, "
          f"accuracy {np.mean(labels == y):.4f}, probabilities within {worst:.2g}")


def swap_names(graph, names):
    """Gives outputs the names of inner values, and those theirs."""
    names = names | {v: k for k, v in names.items()}
    for node in graph.graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    for output in graph.graph.output:
        output.name = names.get(output.name, output.name)


def write_data(name, columns, x, y):
    def text(v):
        return v if isinstance(v, str) else np.format_float_positional(np.float32(v), trim="-")

    with create(ROOT / "data" / f"{name}-holdout.csv") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow([*columns, "label"])
        out.writerows([*map(text, row), label] for row, label in zip(x, y))


def write_manifest(model, description, name, columns, more=()):
    lines = [f'description: "{description}"', "max_rows: 4096", "inputs:", f"  - name: {name}"]
    lines += [f"    {line}" for line in more]
    lines += ["    columns:"]
    for column, least, most in columns:
        bounds = "" if least is None else f", min: {least:g}, max: {most:g}"
        lines.append(f"      - {{name: {column}{bounds}}}")
    write(ROOT / "models" / model / "model.yaml", ("\n".join(lines) + "\n").encode())


def create(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "w", newline="", encoding="utf-8")


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


if __name__ == "__main__":
    main()
