//! How a specification is spelled: printed, and parsed to what prints the same.

use super::*;
use std::str::FromStr;

impl fmt::Display for IndexSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Auto { expected }) = self.auto {
            f.write_str(AUTO)?;
            expected.map_or(Ok(()), |rows| write!(f, "{rows}"))?;
            let chosen = IndexSpec { auto: None, ..self.clone() };
            let chosen = chosen.to_string();
            return if chosen == "Nibble" { Ok(()) } else { write!(f, "({chosen})") };
        }
        self.transforms.iter().try_for_each(|transform| write!(f, "{transform},"))?;
        if let Some(nlist) = self.nlist {
            write!(f, "IVF{nlist}")?;
            match self.coarse {
                Coarse::Auto => {}
                Coarse::Flat => f.write_str(FLAT)?,
                Coarse::Tree(supers) => write!(f, "(IVF{supers})")?,
                Coarse::Raw => f.write_str(RAW)?,
                Coarse::Own(name) => write!(f, "{OWN}{name})")?,
            }
            write!(f, "{}", if self.spill { SPILL } else { "" })?;
            self.strength.map_or(Ok(()), |lambda| write!(f, "{lambda}"))?;
            self.avq.map_or(Ok(()), |eta| write!(f, "{AVQ}{eta}"))?;
            f.write_str(",")?;
        }
        write!(f, "{}", self.encoding)?;
        self.kept.map_or(Ok(()), |kept| write!(f, ",{}", kept.name()))?;
        self.shaped.map_or(Ok(()), |threshold| write!(f, "{SHAPED}{threshold}"))
    }
}

impl FromStr for IndexSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |what: String| Error::Spec { text: text.into(), what };
        if let Some(rest) = text.strip_prefix(AUTO) {
            return parse_auto(rest).map_err(bad);
        }
        let mut spec = IndexSpec::flat(0, Metric::L2);
        let mut parts = text.split(',').peekable();
        while let Some(Ok(transform)) = parts.peek().map(|part| part.parse()) {
            spec.transforms.push(transform);
            parts.next();
        }
        if let Some(lists) = parts.peek().and_then(|part| part.strip_prefix("IVF")) {
            let (lists, avq) = split_mark(lists, AVQ);
            spec.avq = avq
                .map(|eta| real(eta).ok_or_else(|| bad(format!("`{AVQ}{eta}`: 1 or more, such as {AVQ}2"))))
                .transpose()?;
            let (lists, spill) = split_mark(lists, SPILL);
            let least = if spill.is_some() { 2 } else { 1 };
            if let Some(lambda) = spill.filter(|lambda| !lambda.is_empty()) {
                let strength = real(lambda)
                    .ok_or_else(|| bad(format!("`{SPILL}{lambda}`: 0 or more, such as {SPILL}0.8")))?;
                spec = spec.with_spill_strength(strength);
            }
            let (lists, coarse) = split_coarse(lists).ok_or_else(|| {
                bad("lists are found by way of `(Flat)`, `(Raw)`, `(own:NAME)`, or of a tree, such as `(IVF256)`".into())
            })?;
            spec.coarse = coarse;
            let nlist = number(lists).filter(|n| (least..=NLIST_MAX).contains(n));
            spec.nlist = Some(nlist.ok_or_else(|| bad(format!("IVF takes {least} to {NLIST_MAX} lists")))?);
            spec.spill = spill.is_some();
            parts.next();
        }
        spec.encoding = parts.next().unwrap_or_default().parse().map_err(bad)?;
        if let Some(kept) = parts.next() {
            let (kept, threshold) = split_mark(kept, SHAPED);
            let real = |text| {
                real(text).ok_or_else(|| bad(format!("`{SHAPED}{text}`: more than 0, such as {SHAPED}0.2")))
            };
            spec.shaped = threshold.map(real).transpose()?;
            let known = KEPT_ROWS.into_iter().find(|k| k.name() == kept || k.refine() == Some(kept));
            let unknown =
                || bad(format!("`{kept}` keeps no rows: RFlat, RF16, RBF16, RU8, RSQ8 or RSQ8+Flat"));
            spec.kept = Some(known.ok_or_else(unknown)?);
        }
        match parts.next() {
            None => spec.misfit().map_or(Ok(spec), |what| Err(bad(what))),
            Some(rest) => Err(bad(format!("`{rest}` is one part too many"))),
        }
    }
}

/// What follows the word: the number of vectors that are expected, and what was chosen, each if it is there.
fn parse_auto(text: &str) -> Result<IndexSpec, String> {
    let (expected, chosen) = text.split_at(text.find('(').unwrap_or(text.len()));
    let expected = match expected {
        "" => None,
        digits => {
            Some(number(digits).ok_or("Auto is followed by a number of vectors, if by anything")? as u64)
        }
    };
    let chosen = match chosen {
        "" => "Nibble",
        chosen => chosen
            .strip_prefix('(')
            .and_then(|chosen| chosen.strip_suffix(')'))
            .filter(|chosen| !chosen.starts_with(AUTO))
            .ok_or("what Auto chose stands in brackets")?,
    };
    let spec = match chosen.parse::<IndexSpec>() {
        Ok(spec) => spec,
        Err(Error::Spec { what, .. }) => return Err(what),
        Err(other) => return Err(other.to_string()),
    };
    Ok(IndexSpec { auto: Some(Auto { expected }), ..spec })
}

/// The number of lists and how they are found: `65536`, `65536(Flat)`, `65536(IVF256)`.
fn split_coarse(lists: &str) -> Option<(&str, Coarse)> {
    let Some(open) = lists.find('(') else { return Some((lists, Coarse::Auto)) };
    let (lists, coarse) = lists.split_at(open);
    if coarse == FLAT {
        return Some((lists, Coarse::Flat));
    }
    if coarse == RAW {
        return Some((lists, Coarse::Raw));
    }
    if let Some(name) = coarse.strip_prefix(OWN) {
        return Some((lists, Coarse::Own(QuantizerName::new(name.strip_suffix(')')?).ok()?)));
    }
    let supers = coarse.strip_prefix("(IVF")?.strip_suffix(')')?;
    Some((lists, Coarse::Tree(number(supers)?)))
}

/// What comes before a mark, and what behind it if it is there.
fn split_mark<'t>(text: &'t str, mark: &str) -> (&'t str, Option<&'t str>) {
    text.split_once(mark).map_or((text, None), |(text, rest)| (text, Some(rest)))
}

/// A number that is not negative.
fn real(text: &str) -> Option<Real> {
    Real::parse(text).filter(|number| number.get() >= 0.0)
}

/// Digits and nothing else.
fn number(text: &str) -> Option<usize> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}
