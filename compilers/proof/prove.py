"""Proving an artifact: every file is opened, what it holds is recorded and held against the manifest.

It stands directly behind a lowering: what it finds fails the cell before anything is stored or evaluated.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path, PurePosixPath

from compilers.backend import backends, find_format
from compilers.lazy import Lazy
from compilers.proof.amdgpu import read_code_object
from compilers.proof.carve import executable_form, gpu_source, signatures
from compilers.proof.claim import Claim, CodeFacts, CodeReader, FileReading, Readings
from compilers.proof.cuda import cubin_architecture, find_cuobjdump, read_fatbin, read_ptx
from compilers.proof.elf import Image, read_elf
from compilers.proof.graph import CODE_NODE, OnnxGraph, read_graph
from compilers.proof.proof import Binary, BinaryKind, Proof
from compilers.proof.rules import judge, summarize
from compilers.proof.spirv import read_spirv
from compilers.proof.tool import find_tool, package_version
from registry.artifact import ArtifactFormat
from registry.digest import digest_bytes, digest_file
from registry.errors import CorruptError
from registry.target import Target

DATA_SUFFIXES = frozenset({".safetensors", ".irpa", ".data", ".weight", ".weights", ".npz"})
"""Tensors: only their first bytes are looked at, for anything may lie between them by chance."""
TEXT_SUFFIXES = frozenset({".json", ".jinja", ".txt", ".model", ".md", ".yaml", ".toml"})
FOREIGN_SUFFIXES = frozenset(
    {".py", ".sh", ".cu", ".cuh", ".hip", ".cl", ".c", ".cc", ".cpp", ".h", ".ll", ".bc", ".mlir", ".s", ".o"}
)
"""Source text and half-made code, which no artifact is made of."""
MOST_NAMES = 64
"""Exports and operators that are recorded of one binary."""
HEAD_BYTES = 64


def prove(
    directory: Path,
    *,
    files: Sequence[str],
    entry: str,
    format: ArtifactFormat,  # noqa: A002  # the manifest's own word
    toolchain: str,
    target: Target,
    options: Mapping[str, str | int | float | bool] | None = None,
) -> Proof:
    """What an artifact's files hold, and where that differs from what is said of them.

    Damaged files, and files that should not be there, are problems of the proof, never errors.

    Args:
        directory: Where the files lie.
        files: Their paths in it: those of the lowering, or all of a bundle.
        entry: The one that a runtime opens first.
        format: The artifact's format.
        toolchain: What lowered it, for the summary.
        target: What it was lowered for.
        options: The manifest's options.

    Raises:
        ToolchainMissingError: pyelftools or onnx is not installed.
        UnknownNameError: No backend has the format.
    """
    claim = Claim(format, toolchain, target, entry, tuple(sorted(files)), dict(options or {}))
    form = find_format(format)
    reader = _Reader(directory, form.readers)
    for file in claim.files:
        reader.read(file)
    evidence = reader.evidence()
    claims = form.claims.get(target.kind)
    private = [backend.private_files for backend in backends() if backend.private_files is not None]
    problems = (*reader.problems, *judge(claim, evidence, claims=claims, private_files=private))
    binaries = tuple(reading.binary for reading in evidence.readings)
    return Proof(
        binaries=binaries,
        problems=problems,
        notes=(*reader.notes, *evidence.notes),
        summary=summarize(claim, evidence, problems, claims=claims),
    )


class _Reader:
    """Reads files one after the other."""

    def __init__(self, directory: Path, readers: Mapping[str, Lazy[CodeReader]]) -> None:
        self.directory = directory
        self.readers = readers
        self.elf_tool = package_version("pyelftools", extra="build")
        self.readings: list[FileReading] = []
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.graphs: dict[str, OnnxGraph] = {}

    def evidence(self) -> Readings:
        """All that was read."""
        return Readings(self.directory, self.readings, self.graphs)

    def read(self, file: str) -> None:
        """Read one file."""
        path = self.directory / file
        parts = PurePosixPath(file).parts
        if not parts or ".." in parts or PurePosixPath(file).is_absolute():
            self.problems.append(f"`{file}` is listed, and lies outside of the artifact")
            return
        try:
            if path.is_symlink() or not path.is_file():
                self.problems.append(f"`{file}` is listed, and is no file here")
                return
            self._read(file, path)
        except (OSError, ValueError) as error:  # ValueError: mapping of an empty file
            self.problems.append(f"`{file}` cannot be read: {error}")

    def _read(self, file: str, path: Path) -> None:
        suffix = path.suffix.lower()
        if path.stat().st_size == 0:
            self.problems.append(f"`{file}` is empty")
            return
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
        if suffix in FOREIGN_SUFFIXES:
            self.problems.append(f"`{file}` is source text or half-made code, and an artifact holds neither")
            return
        reader = self.readers.get(suffix)
        if suffix in DATA_SUFFIXES or suffix in TEXT_SUFFIXES or reader is not None:
            if (form := executable_form(head)) is not None:
                self.problems.append(f"`{file}` should be data, and is {form}")
                self._unknown(file, path, form)
            elif suffix in TEXT_SUFFIXES and (source := gpu_source(path.read_bytes())) is not None:
                self.problems.append(f"`{file}` holds GPU source text (`{source[1]}`)")
            elif reader is not None:
                with path.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as data:
                    self._own_form(file, data, digest_file(path), reader.load())
            return
        if suffix == ".onnx":
            self._graph(file, path)
            return
        self._code(file, path.read_bytes())

    def _unknown(self, file: str, path: Path, form: str) -> None:
        self._add(
            file, 0, path.stat().st_size, digest_file(path), "unknown", machine=form, tool="its first bytes"
        )

    def _graph(self, file: str, path: Path) -> None:
        tool = package_version("onnx", extra="build")
        try:
            graph = read_graph(path)
        except CorruptError as error:
            self.problems.append(f"`{file}` is {error.message}")
            return
        self.graphs[file] = graph
        self._add(
            file,
            0,
            path.stat().st_size,
            digest_file(path),
            "onnx",
            machine=f"ONNX opset {graph.opset}",
            needs=graph.operators[:MOST_NAMES],
            tool=tool,
        )
        for index, code in enumerate(graph.code):
            if code.file is None:
                reader = self.readers.get(CODE_NODE)
                where, digest = f"{file}#{CODE_NODE}{index}", digest_bytes(code.content)
                self._own_form(
                    where, code.content, digest, _read_nothing if reader is None else reader.load()
                )

    def _own_form(self, file: str, data: bytes | mmap, digest: str, read: CodeReader) -> None:
        """Code in a form that the artifact's backend reads."""
        facts = read(data)
        self._add(
            file,
            0,
            len(data),
            digest,
            facts.kind,
            machine=facts.machine,
            architectures=facts.architectures,
            flags=facts.flags,
            tool=facts.tool,
            complaint=facts.complaint,
        )

    def _code(self, file: str, data: bytes) -> None:
        """A file of code: the image that it is, and all that lies inside."""
        before = len(self.readings)
        if data[4:8] == b"IREE" or data[:4] == b"PK\x03\x04":
            self._container(file, data)
        skip = 0
        for found in signatures(data):
            if found.offset < skip:
                continue
            rest = data[found.offset :] if found.offset else data
            match found.kind:
                case "elf":
                    size = self._elf(file, found.offset, rest)
                case "fatbin":
                    size = self._fatbin(file, found.offset, rest)
                case "ptx":
                    size = self._ptx(file, found.offset, rest)
                case "spirv":
                    size = self._spirv(file, found.offset, rest)
            # A library that is the file is searched for what lies within; embedded code is taken as a whole.
            if found.offset or found.kind != "elf":
                skip = found.offset + size
        if (source := gpu_source(data)) is not None:
            self._add(
                file, source[0], 1, digest_bytes(data), "source", machine="GPU source text", tool="its text",
                flags=source[1],
            )  # fmt: skip
        if len(self.readings) == before:
            form = executable_form(data[:HEAD_BYTES])
            self.problems.append(
                f"`{file}` holds no code that is known" + (f", and is {form}" if form else "")
            )

    def _container(self, file: str, data: bytes) -> None:
        """An IREE module: a flat buffer, usually within a ZIP file whose entries are stored as they are."""
        complaint, tool = "", "its identifier"
        if data[:4] == b"PK\x03\x04":
            tool = "zipfile"
            try:
                with zipfile.ZipFile(self.directory / file) as archive:
                    broken = archive.testzip()
                    packed = [i.filename for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]
                complaint = f"holds `{broken}`, which is damaged" if broken else ""
                complaint = complaint or (f"holds `{packed[0]}` compressed" if packed else "")
            except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError) as error:
                complaint = f"is no whole module: {error}"
        self._add(
            file, 0, len(data), digest_bytes(data), "vmfb", machine="IREE VM", tool=tool, complaint=complaint
        )

    def _elf(self, file: str, offset: int, data: bytes) -> int:
        try:
            image = read_elf(data)
        except CorruptError as error:
            self.problems.append(f"`{file}` {_at(offset)}is {error.message}")
            return 0
        body = data[: image.size_bytes]
        kind, architectures, tool = self._silicon(file, offset, image)
        self._add(
            file,
            offset,
            image.size_bytes if offset else len(data),
            digest_bytes(body if offset else data),
            kind,
            machine=image.machine,
            architectures=architectures,
            flags=f"0x{image.flags:x}",
            needs=image.needed,
            exports=image.exports,
            tool=tool,
            image=image,
            code=body,
        )
        return image.size_bytes

    def _silicon(self, file: str, offset: int, image: Image) -> tuple[BinaryKind, tuple[str, ...], str]:
        match image.machine:
            case "EM_CUDA":
                return "cubin", (cubin_architecture(image),), self.elf_tool
            case "EM_AMDGPU":
                said = read_code_object(image)
                if said.noted is None:
                    self.notes.append(f"`{file}` {_at(offset)}has no metadata note; its flags alone speak")
                elif said.noted != said.architecture:
                    self.problems.append(
                        f"`{file}` {_at(offset)}has the flags of {said.architecture}, and its metadata says "
                        f"{said.triple}"
                    )
                return "hsaco", (said.architecture,), self.elf_tool
            case _:
                return "elf", (), self.elf_tool

    def _fatbin(self, file: str, offset: int, data: bytes) -> int:
        made = read_fatbin(data, cuobjdump=find_cuobjdump(), reader=self.elf_tool)
        complaint = made.complaint
        self._add(
            file,
            offset,
            made.size_bytes,
            digest_bytes(data[: made.size_bytes]),
            "fatbin",
            machine="EM_CUDA",
            architectures=made.machine_code,
            flags=" ".join(f"ptx:{arch}" for arch in made.ptx),
            exports=made.kernels,
            tool=made.tool,
            complaint=complaint,
        )
        return made.size_bytes

    def _ptx(self, file: str, offset: int, data: bytes) -> int:
        text = read_ptx(data)
        if text is None:
            return 0
        self._add(
            file,
            offset,
            text.size_bytes,
            digest_bytes(data[: text.size_bytes]),
            "ptx",
            machine=f"PTX {text.version}",
            architectures=(text.target,),
            exports=text.kernels,
            tool="its directives",
        )
        return text.size_bytes

    def _spirv(self, file: str, offset: int, data: bytes) -> int:
        validator = find_tool("spirv-val")
        module = read_spirv(data, validator=validator)
        self._add(
            file,
            offset,
            module.size_bytes,
            digest_bytes(data[: module.size_bytes]),
            "spirv",
            machine=f"SPIR-V {module.version}",
            architectures=(f"spirv-{module.version}",),
            exports=module.entries,
            tool=validator.name if validator else "its instructions",
            complaint=module.complaint,
        )
        return module.size_bytes

    def _add(
        self,
        file: str,
        offset: int,
        size_bytes: int,
        digest: str,
        kind: BinaryKind,
        *,
        machine: str,
        tool: str,
        architectures: tuple[str, ...] = (),
        flags: str = "",
        needs: tuple[str, ...] = (),
        exports: tuple[str, ...] = (),
        complaint: str = "",
        image: Image | None = None,
        code: bytes = b"",
    ) -> None:
        binary = Binary(
            file=file,
            offset=offset,
            size_bytes=size_bytes,
            digest=digest,
            kind=kind,
            machine=machine,
            architectures=architectures,
            flags=flags,
            needs=needs,
            exports=exports[:MOST_NAMES],
            tool=tool,
        )
        if complaint:
            self.problems.append(f"`{file}` {_at(offset)}{complaint}")
        self.readings.append(FileReading(binary, image, code, frozenset(exports)))


def _read_nothing(data: bytes | mmap) -> CodeFacts:
    return CodeFacts(kind="unknown", machine=f"{CODE_NODE} of another backend", tool="its node")


def _at(offset: int) -> str:
    return f"(at byte {offset}) " if offset else ""
