import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForSequenceClassification

from potstill.config import LoRAConfig, TransformerConfig
from potstill.lora.counting import ModuleRow, count_parameters, flops_per_token, module_rows, parameter_groups
from potstill.teacher.transformer import prepare

OPTIONS = {
    "lora": {},
    "first block": {"lora": LoRAConfig(target_modules=("*.0.*",))},
    "norms": {"lora": LoRAConfig(train_layernorm=True)},
    "full": {"method": "full"},
    "head": {"method": "head"},
}


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def config(request):
    return TransformerConfig(**request.param)


def test_rows_and_parts_add_up(family, config, make_model):
    model = make_model(family)
    prepare(model, config)
    total, trained = count_parameters(model)
    rows = module_rows(model)
    assert sum(row.parameters for row in rows) == total
    assert sum(row.trainable for row in rows) == trained
    groups = parameter_groups(model).values()
    assert (sum(count for count, _ in groups), sum(count for _, count in groups)) == (total, trained)
    assert len({(row.name, row.shape, row.rank) for row in rows}) == len(rows)


def test_alike_modules_share_a_row(make_model):
    model = make_model("llama")
    prepare(model, TransformerConfig(lora=LoRAConfig(rank=2, target_modules=("*.0.self_attn.q_proj",))))
    rows = {row.name: row for row in module_rows(model)}
    q, k = "model.layers.{}.self_attn.q_proj", "model.layers.{}.self_attn.k_proj"
    assert rows[k.format("0–1")] == ModuleRow(k.format("0–1"), (16, 16), None, 512, 0)
    assert rows[q.format("0")] == ModuleRow(q.format("0"), (16, 16), 2, 256 + 64, 64)
    assert rows[q.format("1")] == ModuleRow(q.format("1"), (16, 16), None, 256, 0)
    assert rows["score"] == ModuleRow("score", (16, 3), None, 48, 48)


def measured_flops(model):
    """Count what PyTorch's own counter sees of the products with weights: (forward, forward and backward), a token."""
    products = [torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_]
    ids = torch.randint(4, 60, (1, 10))

    def count(work):
        # It knows addmm, but not addmm_, by which adapters add their update.
        mapping = {torch.ops.aten.addmm_: lambda y, a, b, **_: 2 * a[0] * a[1] * b[1]}
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            work()
        return sum(counter.get_flop_counts()["Global"].get(product, 0) for product in products)

    forward = count(lambda: model.base_model(input_ids=ids).last_hidden_state)
    model.train()
    both = count(lambda: model.base_model(input_ids=ids).last_hidden_state.sum().backward())
    return forward / 10, both / 10


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_full_tuning_takes_what_pytorch_counts(family, make_model):
    model = make_model(family)
    prepare(model, TransformerConfig(method="full"))
    forward, training = flops_per_token(model)
    assert training == 3 * forward  # the 6 N of Kaplan et al.
    assert measured_flops(model) == (forward, training)


@pytest.mark.parametrize("targets", ["all-linear", ("*.1.*",)])
def test_lora_takes_what_pytorch_counts_but_for_the_first_adapters_input(targets, make_model):
    """The maps that read the first trained block's input are counted as if it needed a gradient."""
    model = make_model("llama")
    prepare(model, TransformerConfig(lora=LoRAConfig(rank=2, target_modules=targets)))
    forward, training = flops_per_token(model)
    spared = 3 * 2 * (16 * 16 + 2 * 16)  # W and A of q, k and v
    assert measured_flops(model) == (forward, training - spared)
    assert 2 * forward > training - forward > (forward if targets == "all-linear" else 0)


def test_a_head_alone_needs_no_backward_pass(make_model):
    model = make_model("bert")
    prepare(model, TransformerConfig(method="head"))
    forward, training = flops_per_token(model)
    assert forward == training == 2 * 2 * (4 * 16 * 16 + 2 * 16 * 32)


def test_the_reference_experiments_cost():
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("gpt2", num_labels=2))
        prepare(model, TransformerConfig(lora=LoRAConfig(rank=4)))
    matrices, adapters = 12 * (768 * 2304 + 768 * 768 + 2 * 768 * 3072), 589_824
    assert flops_per_token(model) == (2 * (matrices + adapters), 4 * matrices + 6 * adapters)
