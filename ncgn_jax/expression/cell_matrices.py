"""Reads matrices of expression with annotations: AnnData, 10x, and matrix tables.

Sparse matrices stay sparse until genes are chosen. Nothing is ever unpickled, and no
link out of a file or folder is followed.
"""

import contextlib
import dataclasses
import io
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from ncgn_jax.data.archives import read_plain_or_gzip
from ncgn_jax.data.hdf5_check import check_hdf5
from ncgn_jax.data.optional import import_optional
from ncgn_jax.expression.cell_names import GENE_KIND, control_of, list_some
from ncgn_jax.expression.cell_tables import (
    Table,
    empty_table,
    to_names,
    to_numbers,
)
from ncgn_jax.expression.zarr_folders import check_zarr
from ncgn_jax.faults import DataError

if TYPE_CHECKING:
    from anndata import AnnData

HDF5_ENDINGS = (".h5ad", ".h5", ".hdf5", ".h5ad.gz", ".h5.gz")

# First line of a sparse matrix in text, without the type of its numbers.
_MARKET = ("%%matrixmarket", "matrix", "coordinate", "general")

# Parts of AnnData besides `raw`.
_NEEDED = ("X", "obs", "var", "obsm", "layers")
_LONGEST_REASON = 200

Matrix = Any  # numpy array, or matrix or array of scipy.sparse


@dataclasses.dataclass(frozen=True)
class Source:
    """Cells of one file, not yet chosen from or converted.

    Attributes:
      where: Its place, for messages.
      genes: Name of each candidate, maybe repeated.
      cells: Further columns of the cells, whose rows are named.
      matrix: Expression, [cell, gene], of numbers or objects, dense or sparse; None
        for a table, whose candidates are columns of `cells`.
      places: Positions by key, [cell, axis].
      controls: Kind of each candidate that is no gene, by its number.
      layer: Name of the matrix, empty for the usual one.
      notes: What was decided by a rule.
      section_columns: Columns of which the file says that they tell sections apart.
    """

    where: str
    genes: list[str]
    cells: Table
    matrix: Matrix | None
    places: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    controls: Mapping[int, str] = dataclasses.field(default_factory=dict)
    layer: str = ""
    notes: tuple[str, ...] = ()
    section_columns: tuple[str, ...] = ()

    def take(self, genes: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """Returns chosen genes of some cells as numbers, NaN for none, [cell, gene]."""
        if self.matrix is None:
            columns = [to_numbers(self.cells.values[gene][rows]) for gene in genes]
            return np.stack(columns, axis=1)
        if scipy.sparse.issparse(self.matrix):
            return self.sparse(genes, rows).toarray()
        part = self.matrix[np.ix_(rows, np.asarray(genes, int))]
        return part if part.dtype.kind == "f" else to_numbers(part)

    def raw(self, gene: int, row: int) -> object:
        """Returns one entry as it stands in the file."""
        if self.matrix is None:
            return self.cells.values[gene][row]
        return self.matrix[row, gene]

    def sparse(self, genes: Sequence[int], rows: np.ndarray) -> Any:
        """Returns a part of a sparse matrix, by rows."""
        matrix = scipy.sparse.csr_matrix(self.matrix)
        if not np.array_equal(rows, np.arange(matrix.shape[0])):
            matrix = matrix[rows]
        return matrix[:, np.asarray(genes, int)]


def read_hdf5(path: Path, layer: str | None) -> Source:
    """Reads AnnData or a 10x matrix from HDF5, which of them the content tells."""
    if ".h5ad" in path.name.lower():
        import_anndata(path)
    with _unpacked(path) as plain:
        h5py = import_optional("h5py", "hdf5", path)
        check_hdf5(plain)
        try:
            with h5py.File(plain, "r") as file:
                keys = set(file)
                if "obs" not in keys and ("matrix" in keys or _is_old_10x(file)):
                    _refuse_layer(path, layer)
                    return _read_10x_hdf5(file, path)
        except DataError:
            raise
        except Exception as error:  # h5py passes on errors of the HDF5 library
            raise DataError(f"{path}: not readable as HDF5 ({error})") from error
        if "obs" not in keys and "var" not in keys:
            raise DataError(
                f"{path}: groups {list_some(sorted(keys))}; allowed: AnnData (`obs`, "
                "`var`, `X`) or a 10x matrix (`matrix`)"
            )
        return _read_needed(plain, path, layer)


def read_anndata(path: Path, shown: Path | None = None) -> "AnnData":
    """Reads an AnnData file or zarr folder, after it was checked.

    Args:
      path: Where it is.
      shown: What messages call it.

    Raises:
      DataError: If anndata is not installed or the content is damaged.
    """
    shown = shown or path
    anndata = import_anndata(shown)
    try:
        with warnings.catch_warnings():
            # What they warn of (repeated names, old layouts) is treated here.
            warnings.simplefilter("ignore")
            return anndata.read_zarr(path) if path.is_dir() else anndata.read_h5ad(path)
    except Exception as error:  # anndata passes on errors of h5py, zarr and pandas
        reason = (str(error).splitlines() or [repr(error)])[0]
        if len(reason) > _LONGEST_REASON:
            reason = f"{reason[:_LONGEST_REASON]}..."
        raise DataError(
            f"{shown}: not readable as AnnData ({type(error).__name__}: {reason})"
        ) from error


def _read_needed(path: Path, shown: Path, layer: str | None) -> Source:
    """Reads AnnData, without what is not needed where that cannot be read.

    What lies in `uns` may be of types that anndata writes and cannot read again.
    """
    try:
        return of_anndata(read_anndata(path, shown), shown, layer)
    except DataError as error:
        content = _read_parts(path)
        if content is None:
            raise
        source = of_anndata(content, shown, layer)
        note = f"{error}; read without `uns`, `obsp` and the like"
        return dataclasses.replace(source, notes=(*source.notes, note))


def _read_parts(path: Path) -> "AnnData | None":
    """Reads the parts of AnnData that are needed; None if one of them is unreadable."""
    anndata = import_anndata(path)
    with contextlib.ExitStack() as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if path.is_dir():
                zarr = import_optional("zarr", "anndata", path)
                # Consolidated metadata list the unreadable too.
                file = zarr.open_group(path, mode="r", use_consolidated=False)
            else:
                h5py = import_optional("h5py", "hdf5", path)
                file = opened.enter_context(h5py.File(path, "r"))
            read = anndata.io.read_elem
            parts = {name: read(file[name]) for name in _NEEDED if name in file}
            if "raw" in file:
                names = [name for name in ("X", "var") if name in file["raw"]]
                parts["raw"] = {name: read(file["raw"][name]) for name in names}
            return anndata.AnnData(**parts)
        except Exception:  # anndata passes on errors of h5py, zarr and pandas
            return None


def import_anndata(path: Path) -> Any:
    """Imports anndata; DataError with the ways out if it is not there."""
    try:
        return import_optional("anndata", "anndata", path)
    except DataError as error:
        raise DataError(f"{error}; or export the table as .csv") from error


def of_anndata(content: "AnnData", path: Path, layer: str | None) -> Source:
    """Takes expression, places and columns out of an AnnData object."""
    matrix, names, var, used, notes = _choose_layer(content, path, layer)
    obs = content.obs
    columns = to_names(obs.columns)
    values = [obs.iloc[:, i].to_numpy() for i in range(len(columns))]
    table = Table(f"{path}, obs", to_names(content.obs_names), columns, values)
    controls = {}
    for title in ("feature_types", "feature_type"):
        if title in var:
            controls = _other_kinds(to_names(var[title]))
            break
    attributes = content.uns.get("spatialdata_attrs", {})
    region = attributes.get("region_key") if isinstance(attributes, Mapping) else None
    return Source(
        where=str(path),
        genes=names,
        cells=table,
        matrix=matrix,
        places={str(key): content.obsm[key] for key in content.obsm},
        controls={**_controls(names), **controls},
        layer=used,
        notes=notes,
        section_columns=(str(region),) if isinstance(region, str) else (),
    )


def read_zarr(path: Path, layer: str | None) -> Source:
    """Reads an AnnData folder, or the only table of a SpatialData or MuData folder."""
    import_anndata(path)
    check_zarr(path)
    # A folder of MuData has `obs` as well.
    is_single = (path / "obs").is_dir() and not (path / "mod").is_dir()
    inside = [path] if is_single else tables_of_zarr(path)
    if len(inside) != 1:
        found = list_some(p.relative_to(path) for p in inside)
        raise DataError(
            f"{path}: tables {found}; allowed: AnnData, or data.path of one table of "
            "SpatialData or MuData, such as sample.zarr/tables/table"
        )
    source = _read_needed(inside[0], inside[0], layer)
    if inside[0] != path:
        note = f"{inside[0].relative_to(path)} is the table that was read"
        return dataclasses.replace(source, notes=(*source.notes, note))
    return source


def tables_of_zarr(path: Path) -> list[Path]:
    """Lists the AnnData tables of a SpatialData or MuData folder."""
    folders = [path / name for name in ("tables", "table", "mod")]
    inside = [one for folder in folders if folder.is_dir() for one in folder.iterdir()]
    return sorted(one for one in inside if (one / "obs").is_dir())


def read_10x_folder(path: Path) -> Source:
    """Reads a folder with matrix.mtx, features.tsv and barcodes.tsv, maybe in .gz."""
    matrix_file = _one_of(path, "matrix.mtx")
    features = _column_lines(_one_of(path, "features.tsv", "genes.tsv"))
    barcodes = [line[0] for line in _column_lines(_one_of(path, "barcodes.tsv"))]
    matrix = _read_market(matrix_file, (len(features), len(barcodes)))
    names = [line[1] if len(line) > 1 else line[0] for line in features]
    kinds = [line[2] if len(line) > 2 else GENE_KIND for line in features]
    return Source(
        where=str(path),
        genes=to_names(names),
        cells=empty_table(str(path), to_names(barcodes)),
        matrix=scipy.sparse.csr_matrix(matrix.T),
        controls={**_controls(names), **_other_kinds(kinds)},
    )


def is_10x_folder(path: Path) -> bool:
    """Tells whether a folder holds a matrix as 10x writes it."""
    return any((path / name).is_file() for name in ("matrix.mtx", "matrix.mtx.gz"))


def of_table(table: Table, cell_column: str | None, places: Table | None) -> Source:
    """Takes a table as expression, either way round if places name the cells.

    Args:
      table: A matrix with names, or a table with a row per cell.
      cell_column: Column that names the cells, None if nobody said it.
      places: Positions of the cells; None if the table itself has them.
    """
    notes = (table.note,) if table.note else ()
    if places is None or _cells_are_rows(table, cell_column, places):
        columns = table.columns
        return Source(
            table.where, columns, table, None, controls=_controls(columns), notes=notes
        )
    kept = [i for i, name in enumerate(table.columns) if name != table.name_column]
    names = [table.columns[i] for i in kept]
    matrix = np.stack([table.values[i] for i in kept])
    return Source(
        where=table.where,
        genes=table.names,
        cells=empty_table(table.where, names),
        matrix=matrix,
        controls=_controls(table.names),
        notes=notes,
    )


def _cells_are_rows(table: Table, cell_column: str | None, places: Table) -> bool:
    if cell_column in table:
        return True
    known = set(places.names)
    in_rows = sum(name in known for name in table.names)
    in_columns = sum(name in known for name in table.columns)
    if in_rows == in_columns:
        if not in_rows and fov_names(table) and fov_names(places):
            return True
        raise DataError(
            f"{table.where}: {in_rows} rows and {in_columns} columns named like cells "
            f"of {places.where} (rows {list_some(table.names, 3)}; columns "
            f"{list_some(table.columns, 3)}; cells {list_some(places.names, 3)}); "
            "allowed: cells in rows or in columns"
        )
    return in_rows > in_columns


def fov_names(table: Table) -> list[str] | None:
    """Returns names `fov_cell`, as CosMx numbers cells in each field of view."""
    lower = [column.lower() for column in table.columns]
    if lower.count("fov") != 1 or lower.count("cell_id") != 1:
        return None
    fov, cell = (to_names(table.values[lower.index(n)]) for n in ("fov", "cell_id"))
    return [f"{one}_{other}" for one, other in zip(fov, cell, strict=True)]


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """Yields a file without .gz, because the HDF5 library reads files alone."""
    if path.suffix.lower() != ".gz":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.stem
        plain.write_bytes(read_plain_or_gzip(path))
        yield plain


def _choose_layer(
    content: "AnnData", path: Path, layer: str | None
) -> tuple[Matrix, list[str], Any, str, tuple[str, ...]]:
    """Returns a matrix, names and table of its genes, its name and a note."""
    layers = [name for name in map(str, content.layers) if name != "None"]
    has_raw = content.raw is not None
    known = [*layers, *(["raw"] if has_raw else [])]
    if layer is None and content.X is None:
        if len(layers) != 1:
            way = f"; data.layer names another, out of {list_some(known)}"
            raise DataError(f"{path}: no expression matrix X{way if known else ''}")
        (layer,) = layers
        notes: tuple[str, ...] = (
            f"X is empty; layer {layer!r}, the only one, is read",
        )
    elif layer is None and known:
        notes = (f"X is read; data.layer names another, out of {list_some(known)}",)
    else:
        notes = ()
    if layer is None or (layer == "X" and "X" not in layers):
        if content.X is None:
            raise DataError(f"{path}: no expression matrix X")
        return content.X, to_names(content.var_names), content.var, "", notes
    if layer in layers:
        names = to_names(content.var_names)
        return content.layers[layer], names, content.var, layer, notes
    if layer == "raw" and has_raw:
        names = to_names(content.raw.var_names)
        return content.raw.X, names, content.raw.var, layer, notes
    raise DataError(
        f"{path}: data.layer={layer!r}; allowed: {list_some(['X', *known])}"
    )


def _refuse_layer(path: Path, layer: str | None) -> None:
    if layer is not None:
        raise DataError(f"{path}: data.layer={layer!r}; allowed in AnnData alone")


def _controls(genes: Sequence[str]) -> dict[int, str]:
    found = {i: control_of(gene) for i, gene in enumerate(genes)}
    return {i: f"controls {kind}" for i, kind in found.items() if kind}


def _other_kinds(kinds: Sequence[str]) -> dict[int, str]:
    """Returns features that are no genes; none if nothing is called a gene."""
    if GENE_KIND not in kinds:
        return {}
    return {
        i: f"features {kind!r}" for i, kind in enumerate(kinds) if kind != GENE_KIND
    }


def _is_old_10x(file: Any) -> bool:
    """Tells whether a file holds one matrix for each genome, as Cell Ranger 2 did."""
    return len(file) > 0 and all(
        hasattr(file[key], "keys") and {"barcodes", "genes", "data"} <= set(file[key])
        for key in file
    )


def _read_10x_hdf5(file: Any, path: Path) -> Source:
    if "matrix" in file:
        group = file["matrix"]
        features = group["features"]
        names, kinds = features["name"][:], features["feature_type"][:]
    elif len(file) == 1:
        group = file[next(iter(file))]
        names = group["gene_names"][:]
        kinds = np.full(len(names), GENE_KIND)
    else:
        raise DataError(f"{path}: genomes {list_some(file)}; allowed: one")
    genes, barcodes = to_names(names), to_names(group["barcodes"][:])
    data, indices, indptr = (group[n][:] for n in ("data", "indices", "indptr"))
    matrix = scipy.sparse.csc_matrix(
        (data, indices, indptr), shape=(len(genes), len(barcodes))
    )
    matrix.check_format(full_check=True)
    return Source(
        where=str(path),
        genes=genes,
        cells=empty_table(str(path), barcodes),
        matrix=matrix.T.tocsr(),
        controls={**_controls(genes), **_other_kinds(to_names(kinds))},
    )


def _one_of(folder: Path, *names: str) -> Path:
    for name in names:
        for ending in ("", ".gz"):
            if (folder / f"{name}{ending}").is_file():
                return folder / f"{name}{ending}"
    raise DataError(f"{folder}: no {' or '.join(names)}, which belongs to a 10x matrix")


def _column_lines(path: Path) -> list[list[str]]:
    """Returns the lines of a table without header, split at tabs."""
    try:
        text = read_plain_or_gzip(path).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error})") from error
    return [line.split("\t") for line in text.splitlines() if line.strip()]


def _read_market(path: Path, shape: tuple[int, int]) -> Any:
    """Reads a sparse matrix in text.

    That is not by `scipy.io.mmread`, which crashes the program on some damaged files.
    """
    content = io.BytesIO(read_plain_or_gzip(path))
    first = content.readline().decode(errors="replace").lower().split()
    if len(first) != 5 or (*first[:3], first[4]) != _MARKET:
        raise DataError(
            f"{path}: not a readable Matrix Market file: {' '.join(first)[:80]!r}; "
            f"allowed: {' '.join(_MARKET[:3])} <type> {_MARKET[3]}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are no entries
            sizes = np.loadtxt(content, comments="%", ndmin=2, max_rows=1)
            rows, columns, entries = (int(number) for number in sizes[0])
            table = np.loadtxt(content, comments="%", ndmin=2)
    except (ValueError, OverflowError, IndexError) as error:
        raise DataError(
            f"{path}: not a readable Matrix Market file ({error})"
        ) from error
    if (rows, columns) != shape:
        raise DataError(
            f"{path}: {rows} x {columns} entries for {shape[0]} features and "
            f"{shape[1]} barcodes"
        )
    width = 2 if first[3] == "pattern" else 3
    table = table if table.size else np.zeros((0, width))
    if table.shape != (entries, width):
        raise DataError(
            f"{path}: {len(table)} lines of {table.shape[1]} numbers; announced: "
            f"{entries} of {width}"
        )
    place = table[:, :2] - 1
    if not ((place >= 0) & (place < shape) & (place == np.floor(place))).all():
        raise DataError(f"{path}: entries outside {rows} x {columns}")
    values = table[:, 2] if width == 3 else np.ones(len(table))
    return scipy.sparse.coo_matrix((values, place.astype(np.int64).T), shape=shape)
