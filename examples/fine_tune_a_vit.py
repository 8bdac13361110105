"""Fine-tune a vision transformer with the Trainer of transformers while its populations evolve.

Prints how many heads and neurons are left, the accuracy of the network that trained and of the
small one, and that the folder it is saved to loads. The accuracies are equal: what went extinct no
longer had any influence.
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import natsel
from natsel.integrations.transformers import EvolutionCallback

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images[:, None], dtype=torch.float32) / 8 - 1
labels = torch.tensor(digits.target)
pairs = zip(images, labels, strict=True)
samples = [{"pixel_values": image, "labels": label} for image, label in pairs]

# A checkpoint of your own, ViTForImageClassification.from_pretrained(...), goes the same way.
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_labels": 10}
images_are = {"image_size": 8, "patch_size": 4, "num_channels": 1}
model = ViTForImageClassification(ViTConfig(num_hidden_layers=2, **sizes, **images_are))

# The environment carries 60 % of the 136 populations. The two rates suit a run of 264 steps; leave
# them out in a longer one.
callback = EvolutionCallback(capacity=0.6, rate=0.1, adaptation=1e-2)
folder = tempfile.TemporaryDirectory()
arguments = TrainingArguments(folder.name, num_train_epochs=6, learning_rate=3e-3, logging_steps=66)
arguments.per_device_train_batch_size, arguments.report_to = 32, []
trainer = Trainer(model, arguments, train_dataset=samples[:1400], callbacks=[callback])
trainer.train()

print(callback.evolution.landing().message)
for name, mask in callback.evolution.alive.items():
    print(f"{name}: {int(mask.sum())} of {len(mask)} {callback.communities[name].kind}s are left")

small = callback.extract()
natsel.save(small, f"{folder.name}/small")
loaded = natsel.load(f"{folder.name}/small")
with torch.no_grad():
    test = images[1400:]
    answers = [m.cpu().eval()(test).logits.argmax(1) for m in (model, small, loaded)]
before, after, saved = ((found == labels[1400:]).float().mean().item() for found in answers)
print(f"accuracy {before:.1%} before, {after:.1%} after the removal, {saved:.1%} from the folder")
folder.cleanup()

assert callback.evolution.num_alive < 136
assert before == after == saved > 0.8
