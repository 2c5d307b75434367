//! The model: what training made, in memory. Codec, coarse quantizer, and the shapes that follow from
//! the specification. Shared by all snapshots and writers of one model version.

use super::calibrate::Calibration;
use super::{finder, tree};
use crate::coarse::{
    CoarseQuantizer, Finder, FlatCoarse, MeasuredCoarse, Probes, QuantizerParams, Quantizers, Tree,
    TreeCoarse,
};
use crate::codec::{self, Codec, KeptForm, Measured};
use crate::guard::Quiet;
use crate::kernel::{Element, Similarity};
use crate::math::transform::Chain;
use crate::storage::block::Geometry;
use crate::storage::column::Column;
use crate::storage::format::{Header, MAX_ORDER};
use crate::storage::ids::slots_column;
use crate::storage::sections::Section;
use crate::storage::snapshot::Source;
use crate::storage::{BytesTable, ReadTables, Stage, Tables};
use crate::{Encoding, Error, IndexSpec, Metric, Observer, Result, Rows, metric};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

/// A column of kept rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeptColumn {
    pub(crate) stage: Stage,
    pub(crate) form: KeptForm,
    pub(crate) column: Column,
}

/// What training made.
pub(crate) struct Trained {
    pub(crate) centroids: Vec<f32>,
    /// What the specification wants lists to be found through.
    pub(crate) tree: Option<Tree>,
    /// What finds lists instead of the centroids, if the specification wants that.
    pub(crate) finder: Option<Finder>,
    /// What the specification wants done to vectors first.
    pub(crate) chain: Option<Chain>,
    pub(crate) codec: Box<dyn Codec>,
}

/// A specification with its codec and, once trained, its lists' centroids.
pub(crate) struct Model {
    pub(crate) spec: IndexSpec,
    pub(crate) codec: Box<dyn Codec>,
    pub(crate) geometry: Geometry,
    pub(crate) slots_column: Column,
    /// The columns of kept rows, the coarser first.
    pub(crate) kept: Vec<KeptColumn>,
    /// The encoding of the codes as they stand now.
    encoding: Encoding,
    pub(crate) coarse: Option<Box<dyn CoarseQuantizer>>,
    /// What the coarse quantizer goes through, if it does, as it is stored.
    pub(crate) tree: Option<Tree>,
    /// What finds lists instead of the coarse quantizer, which then only scores them.
    pub(crate) finder: Option<Finder>,
    /// What is done to vectors before they come to lists and codes, which live in the space behind it.
    pub(crate) chain: Option<Chain>,
    /// Which recall comes at which settings, where that was measured.
    pub(crate) calibration: Option<Arc<Calibration>>,
    pub(crate) version: u64,
}

impl Model {
    /// The model of an index without lists (flat, or not trained yet).
    pub(crate) fn untrained(spec: &IndexSpec) -> Result<Self> {
        // What has no code before its lists are known stands as it is until then.
        spec.check()?;
        let encoding = if spec.nlist.is_some() { spec.encoding.before_training() } else { spec.encoding };
        let codec = untrained_codec(spec, encoding, spec.dim).ok_or_else(|| Error::Spec {
            text: spec.to_string(),
            what: format!("{encoding} codes are learned, which takes lists (IVF1 for one)"),
        })?;
        Self::with_codec(spec, encoding, codec)
    }

    /// The model of a trained index whose lists are not known, where codes are vectors without them.
    pub(crate) fn without_lists(spec: &IndexSpec) -> Option<Self> {
        let plain = spec.nlist.is_some() && spec.transforms.is_empty() && spec.encoding.element().is_some();
        let codec = untrained_codec(spec, spec.encoding, spec.dim).filter(|_| plain)?;
        Self::with_codec(spec, spec.encoding, codec).ok()
    }

    fn with_codec(spec: &IndexSpec, encoding: Encoding, codec: Box<dyn Codec>) -> Result<Self> {
        spec.check()?;
        let geometry = (spec.block_order..=MAX_ORDER)
            .find_map(|order| Geometry::new(codec.layout(), order))
            .ok_or_else(|| Error::Spec {
                text: spec.to_string(),
                what: "a code is larger than a block".into(),
            })?;
        let column = |(stage, form): (Stage, KeptForm)| {
            let larger =
                || Error::Spec { text: spec.to_string(), what: "a row is larger than a page".into() };
            let column = Column::wide(stage.kind(), form.width()).ok_or_else(larger)?;
            Ok(KeptColumn { stage, form, column })
        };
        let forms = spec.kept.map_or(Vec::new(), |kept| KeptForm::stages_shaped(kept, spec.dim, spec.shaped));
        let kept = [Stage::Rows, Stage::Exact].into_iter().zip(forms).map(column).collect::<Result<_>>()?;
        let slots_column = slots_column(spec.spill);
        let spec = spec.clone();
        Ok(Model {
            spec,
            codec,
            geometry,
            slots_column,
            kept,
            encoding,
            coarse: None,
            tree: None,
            finder: None,
            chain: None,
            calibration: None,
            version: 0,
        })
    }

    /// Refuses what would not fit into blocks once it is trained.
    pub(crate) fn check_trained_layout(&self) -> Result<()> {
        let (spec, similarity) = (&self.spec, self.spec.metric.similarity());
        let layout = codec::layout(spec.encoding, spec.inner_dim(), similarity);
        if (spec.block_order..=MAX_ORDER).any(|order| Geometry::new(layout, order).is_some()) {
            return Ok(());
        }
        let what = format!("a code of {} components is larger than a block", spec.inner_dim());
        Err(Error::Spec { text: spec.to_string(), what })
    }

    /// The same with lists.
    pub(crate) fn trained(spec: &IndexSpec, trained: Trained, version: u64) -> Result<Self> {
        let Trained { centroids, tree, finder, chain, codec } = trained;
        let coarse = Some(Self::coarse(spec, centroids, tree.clone()));
        let model = Self::with_codec(spec, spec.encoding, codec)?;
        Ok(Model { coarse, tree, finder, chain, version, ..model })
    }

    /// What finds the lists of `centroids`.
    pub(crate) fn coarse(
        spec: &IndexSpec,
        centroids: Vec<f32>,
        tree: Option<Tree>,
    ) -> Box<dyn CoarseQuantizer> {
        let (dim, similarity) = (spec.inner_dim(), spec.metric.similarity());
        match (tree, spec.metric.distance()) {
            (_, Some(distance)) => Box::new(MeasuredCoarse::new(centroids, dim, distance)),
            (Some(tree), None) => {
                Box::new(TreeCoarse::new(centroids, dim, similarity, tree).spilling_by(spec.spill_strength()))
            }
            (None, None) => {
                let flat = FlatCoarse::new(centroids, dim, similarity).spilling_by(spec.spill_strength());
                Box::new(if spec.avq.is_some() { flat.assigning_by(Similarity::L2) } else { flat })
            }
        }
    }

    /// The model that `header` speaks of, read from its sections. Without `quantizers` one of the caller's is not asked for: good for looking at
    /// what is stored.
    ///
    /// # Errors
    /// [`Error::Quantizer`] if it is not among `quantizers`.
    pub(crate) fn load<B: BytesTable, M, F, K>(
        tables: &Tables<B, M, F, K>,
        header: &Header,
        quantizers: Option<&Quantizers>,
    ) -> Result<Self> {
        let model = Self::load_with(tables, header, quantizers, |stored, _, _| stored)?;
        Ok(Model { calibration: read_calibration(tables)?, ..model })
    }

    /// The same for a repair, which can do without all that can be made again: the tree, and what was calibrated.
    pub(crate) fn load_damaged<B: BytesTable, M, F, K>(
        tables: &Tables<B, M, F, K>,
        header: &Header,
    ) -> Result<Self> {
        let model = Self::load_with(tables, header, None, |stored, spec, centroids| match stored {
            Err(Error::Corrupt { .. }) => Self::grow_tree(spec, centroids, &mut Observer::none()),
            stored => stored,
        })?;
        let calibration = match read_calibration(tables) {
            Err(Error::Corrupt { .. }) => None,
            read => read?,
        };
        Ok(Model { calibration, ..model })
    }

    /// `settle` is given what was read of the tree.
    fn load_with<B: BytesTable, M, F, K>(
        tables: &Tables<B, M, F, K>,
        header: &Header,
        quantizers: Option<&Quantizers>,
        settle: impl FnOnce(Result<Option<Tree>>, &IndexSpec, &[f32]) -> Result<Option<Tree>>,
    ) -> Result<Self> {
        let spec = spec_of(&tables.names.meta, header)?;
        if !header.trained || spec.nlist.is_none() {
            return Ok(Model { version: header.model_version, ..Self::untrained(&spec)? });
        }
        let name = &tables.names.model;
        let missing = || Error::corrupt(name, 0, "the centroids are missing");
        let bytes = tables.read_section(Section::Centroids)?.ok_or_else(missing)?;
        if bytes.len() != header.nlist as usize * spec.inner_dim() * 4 {
            let (nlist, dim, meta) = (header.nlist, spec.inner_dim(), &tables.names.meta);
            let what = format!("{} bytes of centroids, {meta} says {nlist} of dimension {dim}", bytes.len());
            return Err(Error::corrupt(name, 0, what));
        }
        let centroids: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|component| f32::from_le_bytes(*component)).collect();
        if centroids.iter().any(|component| !component.is_finite()) {
            return Err(Error::corrupt(name, 0, "a centroid is not finite"));
        }
        metric::check_centroids(spec.metric, Rows::of(&centroids, spec.inner_dim()))
            .map_err(|e| Error::corrupt(name, 0, format!("centroids: {e}")))?;
        let tree = settle(tree::read(tables, &spec, &bytes), &spec, &centroids)?;
        let finder = finder::read(tables, &spec, &bytes, quantizers)?;
        let codes = tables.read_section(Section::Codec)?.unwrap_or_default();
        let codec = match untrained_codec(&spec, spec.encoding, spec.inner_dim()).filter(|_| codes.is_empty())
        {
            Some(codec) => codec,
            None => codec::load(spec.encoding, spec.inner_dim(), spec.metric.similarity(), &codes)
                .map_err(|what| Error::corrupt(name, 0, what))?,
        };
        if let Some(lists) = codec.lists().filter(|lists| *lists != header.nlist as usize) {
            let what = format!("tables of the codes of {lists} lists, there are {}", header.nlist);
            return Err(Error::corrupt(name, 0, what));
        }
        let chain = match &spec.transforms[..] {
            [] => None,
            kinds => {
                let bytes = tables.read_section(Section::Transforms)?.unwrap_or_default();
                let chain = Chain::from_bytes(kinds, spec.dim, &bytes);
                Some(chain.map_err(|what| Error::corrupt(name, 0, what))?)
            }
        };
        Self::trained(&spec, Trained { centroids, tree, finder, chain, codec }, header.model_version)
    }

    pub(crate) fn metric(&self) -> Metric {
        self.spec.metric
    }

    /// True if each row stands in two lists: not before training, when there is one.
    pub(crate) fn spills(&self) -> bool {
        self.spec.spill && self.coarse.is_some()
    }

    /// True if rows of equal codes share an entry of their list.
    pub(crate) fn shares(&self) -> bool {
        self.encoding.is_shared()
    }

    /// What a snapshot reads of an index with this model.
    pub(crate) fn source(&self, header: Header, tables: Quiet<ReadTables>, born: Instant) -> Source {
        let (kept_columns, places_of_a_row) = (self.kept_columns(), self.places());
        Source { header, tables, geometry: self.geometry, kept_columns, places_of_a_row, born }
    }

    /// Lists that each row stands in.
    pub(crate) fn places(&self) -> usize {
        if self.spills() { 2 } else { 1 }
    }

    /// Lists of this model.
    /// Which sections belong to the model, and whether they are there.
    pub(crate) fn sections(&self, trained: bool) -> [(Section, bool); 6] {
        let trained = trained && self.spec.nlist.is_some();
        [
            (Section::Centroids, trained),
            (Section::Training, trained),
            (Section::Tree, trained && self.spec.supers().is_some()),
            (Section::Codec, trained && self.spec.encoding.is_learned()),
            (Section::Transforms, trained && !self.spec.transforms.is_empty()),
            (Section::Finder, trained && self.spec.has_finder()),
        ]
    }

    pub(crate) fn nlist(&self) -> usize {
        self.coarse.as_ref().map_or(1, |coarse| coarse.centroids().len())
    }

    pub(crate) fn centroids(&self) -> Option<Rows<'_>> {
        self.coarse.as_ref().map(|coarse| coarse.centroids())
    }

    pub(crate) fn centroid(&self, list: u32) -> Option<&[f32]> {
        Some(self.coarse.as_ref()?.centroids().row(list as usize))
    }

    /// The door: refuses rows that cannot be stored or searched, and brings them into the form that
    /// everything below works on.
    pub(crate) fn prepare<'r>(&self, rows: Rows<'r>) -> Result<Cow<'r, [f32]>> {
        rows.check_dim(self.spec.dim)?;
        match (self.metric(), self.metric().domain(self.spec.dim)) {
            (_, Some(domain)) => domain.check(rows)?,
            (Metric::Cosine, None) => rows.check_finite()?,
            (_, None) => metric::check_norms(rows)?,
        }
        self.prepare_unchecked(rows)
    }

    /// The same of rows that may hold NaN and infinities.
    pub(crate) fn prepare_unchecked<'r>(&self, rows: Rows<'r>) -> Result<Cow<'r, [f32]>> {
        rows.check_dim(self.spec.dim)?;
        match (self.metric(), self.metric().domain(self.spec.dim)) {
            (_, Some(domain)) => Ok(domain.stored(rows)),
            (Metric::Cosine, None) => {
                let mut data = rows.as_slice().to_vec();
                metric::normalise(&mut data, rows.dim())?;
                Ok(Cow::Owned(data))
            }
            (_, None) => Ok(Cow::Borrowed(rows.as_slice())),
        }
    }

    /// Components of vectors where lists and codes live.
    pub(crate) fn inner_dim(&self) -> usize {
        self.chain.as_ref().map_or(self.spec.dim, Chain::dim_out)
    }

    /// Prepared rows as lists and codes see them.
    ///
    /// # Errors
    /// [`Error::TooLong`] for a row that a transform makes too long for its distances to be finite.
    pub(crate) fn project<'r>(&self, rows: Rows<'r>) -> Result<Cow<'r, [f32]>> {
        let Some(chain) = &self.chain else { return Ok(Cow::Borrowed(rows.as_slice())) };
        let mut projected = Vec::new();
        chain.apply(rows, &mut projected);
        metric::check_norms(Rows::of(&projected, chain.dim_out()))?;
        Ok(Cow::Owned(projected))
    }

    /// The columns of kept rows by [`Stage`].
    pub(crate) fn kept_columns(&self) -> [Option<Column>; 2] {
        [Stage::Rows, Stage::Exact]
            .map(|stage| self.kept.iter().find(|kept| kept.stage == stage).map(|kept| kept.column))
    }

    /// How the components of a code are stored now; none where codes are estimates.
    pub(crate) fn code_element(&self) -> Option<Element> {
        self.encoding.element().filter(|_| self.chain.is_none())
    }

    /// The kept rows that have the last word: the most exact ones. None where the codes are more exact, or as exact and
    /// not to be asked by way of coarser ones: beside the f32 codes of an index that waits for its training.
    pub(crate) fn judge(&self) -> Option<&KeptColumn> {
        let spare = self.code_element().is_some() && self.spec.kept.is_some_and(|kept| kept.is_scalar());
        self.kept.last().filter(|_| !spare)
    }

    /// Prepared rows [projected](Self::project); refuses such as the kept rows or the code cannot hold.
    pub(crate) fn admit<'r>(&self, rows: Rows<'r>) -> Result<Cow<'r, [f32]>> {
        let projected = self.project(rows)?;
        self.codec.check(Rows::of(&projected, self.inner_dim()))?;
        self.kept.iter().try_for_each(|kept| kept.form.check(rows))?;
        Ok(projected)
    }

    /// The list of each (prepared) row, given as projected, too; with spilling the second list of each behind them.
    ///
    /// # Errors
    /// Those of a quantizer of the caller's.
    pub(crate) fn assign(&self, rows: Rows<'_>, projected: Rows<'_>) -> Result<Vec<u32>> {
        let mut lists = vec![0; rows.len()];
        match (&self.finder, &self.coarse) {
            (Some(finder), _) => finder.assign(rows, &mut lists)?,
            (None, Some(coarse)) => coarse.assign(projected, &mut lists, &mut vec![0.0; rows.len()]),
            (None, None) => {}
        }
        Ok(self.assign_second(projected, &lists))
    }

    /// The lists of rows whose first ones are `first`.
    pub(crate) fn assign_second(&self, rows: Rows<'_>, first: &[u32]) -> Vec<u32> {
        let mut lists = first.to_vec();
        if let Some(coarse) = self.coarse.as_ref().filter(|_| self.spills()) {
            lists.resize(2 * rows.len(), 0);
            coarse.spill(rows, first, &mut lists[rows.len()..]);
        }
        lists
    }

    /// The lists each (prepared) query, given as projected, too, should probe, looked for as a search wants it.
    ///
    /// # Errors
    /// Those of a quantizer of the caller's.
    pub(crate) fn probe(
        &self,
        queries: Rows<'_>,
        projected: Rows<'_>,
        nprobe: usize,
        how: Option<&QuantizerParams>,
    ) -> Result<Probes> {
        let mut probes = Probes::default();
        match (&self.finder, &self.coarse) {
            (Some(finder), _) => {
                let value = if let Some(QuantizerParams::Own(value)) = how { Some(value) } else { None };
                finder.nearest(queries, nprobe, value, &mut probes)?;
                probes.scores.clear();
                let lists = probes.lists.chunks_exact(probes.nprobe.max(1));
                for (query, lists) in projected.iter().zip(lists) {
                    probes.scores.extend(self.coarse_scores(query, lists));
                }
            }
            (None, Some(coarse)) => match how {
                Some(QuantizerParams::Exact) => {
                    coarse.nearest_within(projected, usize::MAX, nprobe, &mut probes);
                }
                Some(QuantizerParams::SuperClusters(supers)) => {
                    coarse.nearest_within(projected, *supers, nprobe, &mut probes);
                }
                _ => coarse.nearest(projected, nprobe, &mut probes),
            },
            (None, None) => {
                let n = queries.len();
                probes = Probes { nprobe: 1, lists: vec![0; n], scores: vec![0.0; n] };
            }
        }
        Ok(probes)
    }

    /// The scores of a (projected) query with the centroids of these lists.
    pub(crate) fn coarse_scores(&self, query: &[f32], lists: &[u32]) -> Vec<f32> {
        let mut scores = vec![0.0; lists.len()];
        if let Some(coarse) = &self.coarse {
            coarse.scores(query, lists, &mut scores);
        }
        scores
    }

    /// ‖x − c‖² of a stored code in its list; 0 where there is no centroid.
    pub(crate) fn residual(&self, list: u32, code: &[u8]) -> f64 {
        self.centroid(list).map_or(0.0, |centroid| self.codec.residual(centroid, code))
    }

    /// The vector of a code in `list`.
    pub(crate) fn decode(&self, list: u32, code: &[u8]) -> Vec<f32> {
        let mut row = vec![0.0; self.inner_dim()];
        self.codec.decode(self.centroid(list), code, &mut row);
        let Some(chain) = &self.chain else { return row };
        let mut vector = Vec::new();
        chain.reverse(Rows::of(&row, row.len()), &mut vector);
        vector
    }

    /// The same where the code says it.
    ///
    /// # Errors
    /// [`Error::CannotDecode`].
    pub(crate) fn decode_for_users(&self, list: u32, code: &[u8]) -> Result<Vec<f32>> {
        match self.codec.decodes() {
            true => Ok(self.decode(list, code)),
            false => Err(Error::CannotDecode { encoding: self.encoding.to_string() }),
        }
    }
}

pub(crate) fn read_calibration<B: BytesTable, M, F, K>(
    tables: &Tables<B, M, F, K>,
) -> Result<Option<Arc<Calibration>>> {
    let Some(bytes) = tables.read_section(Section::Calibration)? else { return Ok(None) };
    let bad = |what| Error::corrupt(&tables.names.model, (Section::Calibration as u64) << 32, what);
    Calibration::decode(&bytes).map(Arc::new).map(Some).map_err(bad)
}

/// The codec of an encoding that nothing is learned for, of vectors of `dim` components.
pub(crate) fn untrained_codec(spec: &IndexSpec, encoding: Encoding, dim: usize) -> Option<Box<dyn Codec>> {
    match spec.metric.distance() {
        Some(distance) => Some(Box::new(Measured::new(dim, distance))),
        None => codec::untrained(encoding, dim, spec.metric.similarity()),
    }
}

/// The specification a header carries, completed by its other fields.
pub(crate) fn spec_of(name: &str, header: &Header) -> Result<IndexSpec> {
    let spec = header.spec.parse::<IndexSpec>();
    let spec = spec.map_err(|e| Error::corrupt(name, 0, format!("specification: {e}")))?;
    let spec = IndexSpec {
        dim: header.dim as usize,
        metric: header.metric,
        keys: header.keys,
        block_order: header.block_order,
        ..spec
    };
    if header.shared != spec.encoding.is_shared() {
        let what = format!("shared entries: {}, and codes are {}", header.shared, spec.encoding);
        return Err(Error::corrupt(name, 0, what));
    }
    let wanted = if header.trained { spec.nlist.unwrap_or(1) } else { 1 };
    if header.nlist as usize != wanted {
        return Err(Error::corrupt(
            name,
            0,
            format!("{} lists, the specification says {wanted}", header.nlist),
        ));
    }
    if header.first_list.checked_add(header.nlist).is_none() {
        let what =
            format!("{} lists from {} on, which is beyond the last number", header.nlist, header.first_list);
        return Err(Error::corrupt(name, 0, what));
    }
    spec.check().map_err(|e| Error::corrupt(name, 0, e.to_string()))?;
    Ok(spec)
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("spec", &self.spec).field("nlist", &self.nlist()).finish()
    }
}
