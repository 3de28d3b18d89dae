"""Makes the data sets of this folder: a few samples in every format, as the usual tools write them.

needs: pip install numpy
usage: python make.py
Byte i of sample s is (31 s + 7 i) mod 256, number i of sample s is s - i / 4, and the label of sample s is s mod 3.
"""
import csv
import gzip
import os
import struct

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def path(*names):
    result = os.path.join(HERE, *names)
    os.makedirs(os.path.dirname(result), exist_ok=True)
    return result


def samples(first, count, size):
    return [bytes((31 * s + 7 * i) % 256 for i in range(size)) for s in range(first, first + count)]


def labels(first, count):
    return [s % 3 for s in range(first, first + count)]


def compressed(name, content):
    with gzip.GzipFile(path("mnist", name), "wb", mtime=0) as file:
        file.write(content)


compressed("t10k-images-idx3-ubyte.gz", struct.pack(">BBBBIII", 0, 0, 8, 3, 4, 5, 6) + b"".join(samples(0, 4, 30)))
compressed("t10k-labels-idx1-ubyte.gz", struct.pack(">BBBBI", 0, 0, 8, 1, 4) + bytes(labels(0, 4)))

for name, first, count in (("data_batch_1", 0, 2), ("data_batch_2", 2, 1), ("test_batch", 3, 1)):
    with open(path("cifar10", name + ".bin"), "wb") as file:
        for label, pixels in zip(labels(first, count), samples(first, count, 3072)):
            file.write(bytes([label]) + pixels)
with open(path("cifar10", "batches.meta.txt"), "w") as file:
    file.write("airplane\nautomobile\nbird\n\n")

numbers = np.array([[s - i / 4 for i in range(6)] for s in range(4)])
with open(path("table.csv"), "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow([f"x{i}" for i in range(6)] + ["label"])
    for row, label in zip(numbers, labels(0, 4)):
        writer.writerow(list(row) + [label])

np.savez_compressed(path("numbers.npz"), x=numbers.reshape(4, 2, 3), y=np.array(labels(0, 4)))
images = np.frombuffer(b"".join(samples(0, 4, 30)), np.uint8).reshape(4, 5, 6)
np.savez(path("images.npz"), x_train=images, y_train=np.array(labels(0, 4), np.uint8))
