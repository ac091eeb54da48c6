import torch

from sparsemix.train.random_stream import RandomStream

CPU = torch.device("cpu")


def draw(stream):
    with stream.active():
        return torch.rand(3).tolist()


def test_is_one_stream_whatever_is_drawn_between():
    torch.manual_seed(5)
    expected = [torch.rand(3).tolist() for _ in range(3)]
    stream, found = RandomStream(5, CPU), []
    for _ in range(3):
        found.append(draw(stream))
        torch.rand(7)
    assert found == expected


def test_leaves_the_default_generator_alone():
    torch.manual_seed(1)
    expected = [torch.rand(1).item() for _ in range(2)]
    torch.manual_seed(1)
    found = [torch.rand(1).item()]
    draw(RandomStream(5, CPU))
    assert [*found, torch.rand(1).item()] == expected


def test_goes_on_from_its_state():
    stream, other = RandomStream(5, CPU), RandomStream(6, CPU)
    draw(stream)
    other.load_state(stream.state())
    assert draw(other) == draw(stream)
