"""stub until nets merges"""

from abc import ABC, abstractmethod


class Network(ABC):
    def resolve(self, shape, full):
        return self

    @abstractmethod
    def build(self, in_channels, shape, classes=None): ...
    @abstractmethod
    def describe(self): ...


class SpecNetwork(Network):
    def __init__(self, spec):
        self.spec = spec

    def resolve(self, shape, full):
        return SpecNetwork(self.spec.resolve(shape, full))

    def build(self, in_channels, shape, classes=None):
        from bootdiff.nets import build_net

        return build_net(self.spec.kind, in_channels, shape, classes, **self.spec.options())

    def describe(self):
        return self.spec.model_dump()
