"""Knows the names that makers of cell files give to columns, keys and controls.

A reader takes what has a usual name and says so; a field of the configuration names
what has another.

Example:
  >>> find_axes(["cell_id", "X_centroid", "Y_centroid", "Gad2"])
  [['X_centroid', 'Y_centroid']]
  >>> control_of("NegControlProbe_00042"), control_of("Gad2")
  ('NegControl', None)
  >>> make_unique(["TBCE", "Gad2", "TBCE"])
  ['TBCE', 'Gad2', 'TBCE-1']
"""

import re
from collections.abc import Iterable, Sequence

# Keys of positions in `obsm` of AnnData.
SPATIAL_KEYS = (
    "spatial",
    "X_spatial",
    "spatial_coords",
    "spatial_coordinates",
    "spatial_fullres",
    "coordinates",
    "coords",
    "X_coords",
    "xy",
    "X_xy",
    "xy_loc",
    "xyz",
    "location",
    "locations",
    "position",
    "positions",
    "centroid",
    "centroids",
)
# Columns of positions, x and y and z, the better first: of the whole slide before
# those of one picture, of pixels before numbers of rows.
_AXES = (
    ("x", "y", "z"),
    ("x_centroid", "y_centroid", "z_centroid"),  # Xenium
    ("center_x", "center_y", "center_z"),  # MERSCOPE, MERFISH
    ("centerx_global_px", "centery_global_px", "centerz_global_px"),  # CosMx
    ("x_slide_mm", "y_slide_mm", "z_slide_mm"),
    ("global_x", "global_y", "global_z"),
    ("x_global", "y_global", "z_global"),
    ("x_global_px", "y_global_px", "z_global_px"),
    ("pxl_col_in_fullres", "pxl_row_in_fullres", ""),  # Visium
    ("imagecol", "imagerow", ""),
    ("x_um", "y_um", "z_um"),
    ("x_micron", "y_micron", "z_micron"),
    ("centroid_x", "centroid_y", "centroid_z"),
    ("centroidx", "centroidy", "centroidz"),
    ("centroid-0", "centroid-1", "centroid-2"),
    ("centerx", "centery", "centerz"),
    ("x_center", "y_center", "z_center"),
    ("x_coord", "y_coord", "z_coord"),
    ("xcoord", "ycoord", "zcoord"),  # Slide-seq
    ("x_coordinate", "y_coordinate", "z_coordinate"),
    ("coord_x", "coord_y", "coord_z"),
    ("coordx", "coordy", "coordz"),
    ("x_coords", "y_coords", "z_coords"),
    ("x_pos", "y_pos", "z_pos"),
    ("xpos", "ypos", "zpos"),
    ("x_position", "y_position", "z_position"),
    ("pos_x", "pos_y", "pos_z"),
    ("x_loc", "y_loc", "z_loc"),
    ("x_location", "y_location", "z_location"),
    ("loc_x", "loc_y", "loc_z"),
    ("spatial_x", "spatial_y", "spatial_z"),
    ("x_spatial", "y_spatial", "z_spatial"),
    ("spatial1", "spatial2", "spatial3"),
    ("spatial_1", "spatial_2", "spatial_3"),
    ("sdimx", "sdimy", "sdimz"),  # Giotto
    ("xc", "yc", "zc"),
    ("xcor", "ycor", "zcor"),
    ("x_array", "y_array", "z_array"),
    ("pixel_x", "pixel_y", "pixel_z"),
    ("x_pixel", "y_pixel", "z_pixel"),
    ("centerx_local_px", "centery_local_px", "centerz_local_px"),
    ("x_local_px", "y_local_px", "z_local_px"),
    ("array_col", "array_row", ""),
    ("col", "row", ""),
)
# Columns whose values name the rows of a table.
CELL_COLUMNS = (
    "",
    "id",
    "cell",
    "cells",
    "cell_id",
    "cellid",
    "cell id",
    "cell_name",
    "entityid",
    "barcode",
    "barcodes",
    "bead",
    "spot",
    "spot_id",
    "index",
    "unnamed: 0",
    "__index_level_0__",
)
# Columns that tell sections apart, each a piece of tissue.
SECTION_COLUMNS = (
    "section",
    "section_id",
    "sectionid",
    "tissue_section",
    "brain_section_label",
    "library_id",
    "library",
    "library_ids",
    "slice",
    "slice_id",
    "slide",
    "slide_id",
    "slideid",
    "puck",
    "puck_id",
    "sample",
    "sample_id",
    "sampleid",
    "sample_name",
    "samples",
    "batch",
    "batch_id",
    "bregma",
    "capture_area",
    "orig.ident",
    "specimen",
    "specimen_id",
    "tissue_id",
    "core",
    "core_id",
    "image_id",
    "dataset",
    "replicate",
)
# Columns that tell fields of view apart: sections of their own if each has a frame of
# its own, else tiles of one section.
TILE_COLUMNS = ("fov", "fov_id", "fov_name", "field_of_view", "tile", "tile_id")
IN_TISSUE = "in_tissue"
# Columns that name the gene of each row, in tables with a row per transcript.
GENE_COLUMNS = (
    "gene",
    "genes",
    "gene_name",
    "genename",
    "gene_id",
    "geneid",
    "gene_symbol",
    "feature_name",
    "target",
    "transcript",
)
# Columns of a table that are no genes, whatever their numbers.
_NO_GENES = frozenset(
    (
        *CELL_COLUMNS,
        *SECTION_COLUMNS,
        *TILE_COLUMNS,
        *(name for axes in _AXES for name in axes),
        IN_TISSUE,
        "volume",
        "area",
        "area.um2",
        "cell_area",
        "cell_size",
        "nucleus_area",
        "nucleus_count",
        "size",
        "width",
        "height",
        "aspectratio",
        "min_x",
        "max_x",
        "min_y",
        "max_y",
        "min_z",
        "max_z",
        "anisotropy",
        "perimeter",
        "perimeter_area_ratio",
        "solidity",
        "transcript_count",
        "transcript_counts",
        "control_probe_counts",
        "genomic_control_counts",
        "control_codeword_counts",
        "unassigned_codeword_counts",
        "deprecated_codeword_counts",
        "total_counts",
        "n_counts",
        "ncounts",
        "ncount_rna",
        "nfeature_rna",
        "n_genes",
        "n_genes_by_counts",
        "total_transcripts",
        "z_level",
        "segmentation_method",
        "cluster",
        "clusters",
        "cluster_id",
        "clusterid",
        "leiden",
        "louvain",
        "cell_type",
        "celltype",
        "cell_class",
        "cell_type_id",
        "annotation",
        "region",
        "label",
        "labels",
        "time",
        "age",
        "layer",
    )
)
# Probes and codewords that measure no gene: Xenium, MERSCOPE and MERFISH, CosMx.
_CONTROLS = re.compile(
    r"(Blank|NegControl|NegativeControl|NegPrb|Negative(?=[-_]?\d|$)|FalseCode"
    r"|SystemControl|UnassignedCodeword|DeprecatedCodeword|Intergenic|antisense|BLANK"
    r"|blank|Neg[-_]?\d)(?![a-z])",
)
GENE_KIND = "Gene Expression"


def find_axes(columns: Iterable[str]) -> list[list[str]]:
    """Finds columns of positions, in the order of x, y and, if present, z.

    Args:
      columns: Names of all columns.

    Returns:
      Every usual set of columns that is complete, the better first. A set holds more
      than one name of an axis if they differ in upper and lower case alone.
    """
    known: dict[str, list[str]] = {}
    for column in columns:
        known.setdefault(column.strip().lower(), []).append(column)
    found = []
    for x, y, z in _AXES:
        if x in known and y in known:
            axes = known[x] + known[y] + (known.get(z, []) if z else [])
            found.append(axes)
    return found


def control_of(gene: str) -> str | None:
    """Returns the kind of control that a name stands for, None for a gene."""
    found = _CONTROLS.match(gene)
    return found[1] if found else None


def is_no_gene(column: str) -> bool:
    """Tells whether a column of a table describes cells by its name."""
    return column.strip().lower() in _NO_GENES


def find_columns(columns: Iterable[str], usual: Sequence[str]) -> list[str]:
    """Returns the columns with usual names, in the order of `usual`."""
    listed = [column for column in columns if column.strip().lower() in usual]
    return sorted(listed, key=lambda column: usual.index(column.strip().lower()))


def make_unique(names: Sequence[str]) -> list[str]:
    """Tells equal names apart by `-1`, `-2` and so on behind all but the first."""
    taken, counts, unique = set(names), dict.fromkeys(names, 0), []
    seen: set[str] = set()
    for name in names:
        own = name
        while own in seen or (own != name and own in taken):
            counts[name] += 1
            own = f"{name}-{counts[name]}"
        seen.add(own)
        unique.append(own)
    return unique


def list_some(names: Iterable[object], most: int = 8) -> str:
    """Lists some names, each in quotes, and says how many there are."""
    quoted = [repr(str(name)) for name in names]
    more = f", ... ({len(quoted)} in all)" if len(quoted) > most else ""
    return (", ".join(quoted[:most]) or "none") + more
