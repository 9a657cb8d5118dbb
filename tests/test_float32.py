"""The flags that keep float32 on CUDA in float32."""

from threading import Event, Thread

import pytest
import torch

from nextscale.runtime import exact_float32
from toys import make_tokenizer


def flags() -> tuple[str, str]:
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


@pytest.fixture(autouse=True)
def tf32():
    """Both flags as a user may have set them."""
    before = flags()
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision = before


def test_inside_all_is_float32_and_outside_what_it_was() -> None:
    with exact_float32():
        assert flags() == ("ieee", "ieee")
        with exact_float32():
            assert flags() == ("ieee", "ieee")
        assert flags() == ("ieee", "ieee")
    assert flags() == ("tf32", "tf32")


def test_an_error_restores_too() -> None:
    with pytest.raises(KeyError), exact_float32():
        raise KeyError
    assert flags() == ("tf32", "tf32")


def test_one_thread_does_not_end_it_for_another() -> None:
    entered, leave, left = Event(), Event(), []

    def other() -> None:
        with exact_float32():
            entered.set()
            leave.wait()
        left.append(flags())

    thread = Thread(target=other)
    thread.start()
    entered.wait()
    with exact_float32():
        leave.set()
        thread.join()
        assert left == [("ieee", "ieee")]
        assert flags() == ("ieee", "ieee")
    assert flags() == ("tf32", "tf32")


def test_the_tokenizer_computes_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, seen = make_tokenizer(), []
    for part in (tokenizer.encoder, tokenizer.quant_conv, *tokenizer.quantizer.phi, tokenizer.decoder):
        part.register_forward_hook(lambda *_: seen.append(flags()))
    plain = torch.Tensor.argmin
    monkeypatch.setattr(torch.Tensor, "argmin", lambda *a, **k: seen.append(flags()) or plain(*a, **k))
    tokens = tokenizer.encode(torch.rand(1, 3, 16, 16) * 2 - 1)
    scales = len(tokens)
    assert seen == [("ieee", "ieee")] * (2 + 2 * scales)
    seen.clear()
    tokenizer.decode(tokens)
    tokenizer.quantizer.teacher_forcing(tokens)
    assert seen == [("ieee", "ieee")] * (1 + 2 * scales)
    assert flags() == ("tf32", "tf32")


@pytest.mark.gpu
def test_cuda_encodes_to_the_cpus_tokens() -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(channels=64, encoder_blocks=2, patch=1, scales=((1, 1), (4, 4), (8, 8), (16, 16)))
    images = torch.rand(8, 3, 32, 32) * 2 - 1
    expected = tokenizer.encode(images).packed
    found = tokenizer.cuda().encode(images.cuda()).packed.cpu()
    assert (found == expected).double().mean() > 0.999
