//! The parameters of a training as they are stored with the model.

use super::TrainParams;
use crate::math::seeding::Init;
use crate::storage::sections::Section;
use crate::{Error, Result};

/// `name value` lines: readable by any later version, whatever it adds.
pub(crate) fn encode_params(params: &TrainParams) -> Vec<u8> {
    let c = &params.clustering;
    let init = match c.init {
        Init::Random => "random",
        Init::KMeansPlusPlus => "k-means++",
        Init::AfkMc2 => "afk-mc2",
    };
    let line =
        |name: &str, value: Option<usize>| value.map_or(String::new(), |value| format!("{name} {value}\n"));
    // What is left to the metric is not said.
    let spherical = c.spherical.map_or(String::new(), |value| format!("spherical {value}\n"));
    let code_rows = line("code_rows", params.code_rows);
    let code_iterations = line("code_iterations", params.code_iterations);
    let calibration = line("calibration_queries", params.calibration_queries);
    let sample = params.sample_rows.map_or("all".to_string(), |rows| rows.to_string());
    format!(
        "niter {}\nnredo {}\n{spherical}int_centroids {}\nupdate_index {}\nfrozen_centroids {}\n\
         min_points_per_centroid {}\nmax_points_per_centroid {}\nseed {}\ninit {init}\n\
         afkmc2_chain_length {}\nearly_stop_threshold {}\ncheck_finite {}\nmin_cluster_rows {}\nsample_rows {sample}\n\
         {code_rows}{code_iterations}{calibration}",
        c.niter,
        c.nredo,
        c.int_centroids,
        c.update_index,
        c.frozen_centroids,
        c.min_points_per_centroid,
        c.max_points_per_centroid,
        c.seed,
        c.afkmc2_chain_length,
        c.early_stop_threshold,
        c.check_finite,
        c.min_cluster_rows,
    )
    .into_bytes()
}

pub(crate) fn decode_params(bytes: &[u8]) -> Result<TrainParams> {
    let bad = |what: String| Error::corrupt("model", Section::Training as u64, what);
    let text = std::str::from_utf8(bytes).map_err(|_| bad("training parameters are no text".into()))?;
    let mut params = TrainParams::default();
    for line in text.lines() {
        let (name, value) = line.split_once(' ').ok_or_else(|| bad(format!("`{line}`")))?;
        set_param(&mut params, name, value).ok_or_else(|| bad(format!("`{line}`")))?;
    }
    Ok(params)
}

fn set_param(params: &mut TrainParams, name: &str, value: &str) -> Option<()> {
    let c = &mut params.clustering;
    match name {
        "niter" => c.niter = value.parse().ok()?,
        "nredo" => c.nredo = value.parse().ok()?,
        "spherical" => c.spherical = Some(value.parse().ok()?),
        "int_centroids" => c.int_centroids = value.parse().ok()?,
        "update_index" => c.update_index = value.parse().ok()?,
        "frozen_centroids" => c.frozen_centroids = value.parse().ok()?,
        "min_points_per_centroid" => c.min_points_per_centroid = value.parse().ok()?,
        "max_points_per_centroid" => c.max_points_per_centroid = value.parse().ok()?,
        "seed" => c.seed = value.parse().ok()?,
        "init" => {
            c.init = match value {
                "random" => Init::Random,
                "k-means++" => Init::KMeansPlusPlus,
                "afk-mc2" => Init::AfkMc2,
                _ => return None,
            }
        }
        "afkmc2_chain_length" => c.afkmc2_chain_length = value.parse().ok()?,
        "early_stop_threshold" => c.early_stop_threshold = value.parse().ok()?,
        "check_finite" => c.check_finite = value.parse().ok()?,
        "min_cluster_rows" => c.min_cluster_rows = value.parse().ok()?,
        "code_rows" => params.code_rows = Some(value.parse().ok()?),
        "code_iterations" => params.code_iterations = Some(value.parse().ok()?),
        "calibration_queries" => params.calibration_queries = Some(value.parse().ok()?),
        "sample_rows" if value == "all" => params.sample_rows = None,
        "sample_rows" => params.sample_rows = Some(value.parse().ok()?),
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClusteringParams;

    #[test]
    fn parameters_round_trip() {
        let clustering = ClusteringParams {
            niter: 3,
            nredo: 2,
            spherical: Some(true),
            seed: u64::MAX,
            init: Init::AfkMc2,
            early_stop_threshold: 0.125,
            ..ClusteringParams::default()
        };
        let clustering = ClusteringParams { min_cluster_rows: 7, ..clustering };
        let (code_rows, code_iterations) = (Some(70), Some(3));
        let params = TrainParams {
            clustering,
            sample_rows: Some(9),
            code_rows,
            code_iterations,
            calibration_queries: Some(0),
            initial: None,
        };
        assert_eq!(decode_params(&encode_params(&params)).unwrap(), params);
        let open = TrainParams::default();
        assert_eq!(decode_params(&encode_params(&open)).unwrap(), open);
        assert!(decode_params(b"niter many\n").is_err());
    }
}
