//! A model: its configuration and its packed weights, read from one safetensors file.
//!
//! The file holds int8 tensors, the [`MIXER`]'s first weights, and two metadata entries: the version of the arithmetic and the
//! [`Config`] as JSON. The configuration is validated first; it fixes every tensor's shape, and nothing is
//! allocated for a tensor that is missing or has another type or shape.

use super::kernels::Packed;
use super::{Config, EngineError, Kernel};
use safetensors::{Dtype, SafeTensors};

/// Version of the arithmetic and of the tensor names; a change of either changes it. Of files of version 1 no [`MIXER`] is
/// read, those of version 2 have one.
pub const FORMAT_VERSION: u32 = 2;
/// The version without a [`MIXER`].
const PLAIN_VERSION: u32 = 1;
/// Longest header that is read: the names and shapes of some thousand tensors.
const MAX_HEADER_BYTES: u64 = 256 << 10;
/// The one metadata key of a model file; its value is [`metadata`].
pub const METADATA_KEY: &str = "vortex_model";

/// Name of the tensor of what the codec's mixer weighs its inputs with at first, beside this model: little-endian i16, in the shape
/// [`MIXER_SHAPE`].
pub const MIXER: &str = "mixer";
/// Kinds of contexts (records, text), banks of contexts, inputs.
pub const MIXER_SHAPE: [usize; 3] = [2, 2, 64];

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata<C> {
    version: u32,
    config: C,
}

/// The metadata of a model file, with a [`MIXER`] or without: version and configuration as JSON, always the same bytes for the same
/// configuration.
///
/// # Errors
/// None that a [`Config`] can cause; JSON writers report errors.
pub fn metadata(config: &Config, mixer: bool) -> Result<String, serde_json::Error> {
    let version = if mixer { FORMAT_VERSION } else { PLAIN_VERSION };
    serde_json::to_string(&Metadata { version, config })
}

/// The configuration, and whether the file has a [`MIXER`].
fn parse_metadata(json: &str) -> Result<(Config, bool), EngineError> {
    let wrong = |e: serde_json::Error| EngineError::Config(e.to_string());
    let open: Metadata<serde_json::Value> = match serde_json::from_str(json) {
        Ok(open) => open,
        Err(_) => {
            return Err(EngineError::Version {
                expected: FORMAT_VERSION,
                got: None,
            });
        }
    };
    if ![PLAIN_VERSION, FORMAT_VERSION].contains(&open.version) {
        return Err(EngineError::Version {
            expected: FORMAT_VERSION,
            got: Some(open.version),
        });
    }
    let config: Config = serde_json::from_value(open.config).map_err(wrong)?;
    config.validate()?;
    Ok((config, open.version == FORMAT_VERSION))
}

/// One layer's weights.
#[derive(Debug)]
pub(super) struct Layer {
    /// Queries, keys and values from the normed stream.
    pub qkv: Packed,
    /// Keys and values alone, for compressed memory.
    pub kv: Packed,
    pub o: Packed,
    /// Inputs in the order (position in the slot, channel).
    pub compress: Packed,
    pub up: Packed,
    pub down: Packed,
    /// `[head][distance]`.
    pub bias_recent: Vec<i8>,
    /// `[head][distance in slots]`.
    pub bias_memory: Vec<i8>,
}

/// An immutable model, shared by all threads.
#[derive(Debug)]
pub struct Model {
    id: [u8; 16],
    config: Config,
    kernel: Kernel,
    /// `[feature][byte][channel]`.
    pub(super) embedding: Vec<i8>,
    pub(super) layers: Vec<Layer>,
    pub(super) head: Packed,
    mixer: Option<Vec<i16>>,
}

/// Name and shape of every tensor of a model file, in the order of the layers.
pub fn tensor_shapes(c: &Config) -> Vec<(String, Vec<usize>)> {
    let (d, heads, memory) = (c.d(), c.model.n_heads, &c.compressive_memory);
    let mut all = vec![(
        "embedding".to_string(),
        vec![c.model.features.len(), 256, d],
    )];
    for i in 0..c.model.n_layers {
        let mut add =
            |name: &str, shape: &[usize]| all.push((format!("layers.{i}.{name}"), shape.to_vec()));
        add("qkv", &[d + 2 * c.kv_width(), d]);
        add("bias_recent", &[heads, c.recent_slots()]);
        add("bias_memory", &[heads, memory.max_compressed_len]);
        add("compress", &[d, d, memory.compression_rate]);
        add("o", &[d, d]);
        add("up", &[c.ffn(), d]);
        add("down", &[d, c.ffn()]);
    }
    all.push(("head".to_string(), vec![256, d]));
    all
}

impl Model {
    /// Reads a model file, to be run by the kernel of this process ([`Kernel::chosen`]).
    ///
    /// # Errors
    /// Any [`EngineError`] but `Lanes`: the bytes are no model of this version, or are inconsistent.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EngineError> {
        Self::with_kernel(bytes, Kernel::chosen()?)
    }

    /// Reads a model file, to be run by this kernel.
    ///
    /// # Errors
    /// As [`Model::from_bytes`].
    pub fn with_kernel(bytes: &[u8], kernel: Kernel) -> Result<Self, EngineError> {
        if !kernel.is_supported() {
            return Err(EngineError::Kernel(kernel.name().to_string()));
        }
        let container = |e: safetensors::SafeTensorError| EngineError::Container(e.to_string());
        let header_len = bytes
            .first_chunk()
            .map_or(0, |len| u64::from_le_bytes(*len));
        if header_len > MAX_HEADER_BYTES {
            let reason =
                format!("a header of {header_len} bytes, at most {MAX_HEADER_BYTES} are read");
            return Err(EngineError::Container(reason));
        }
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(container)?;
        let entry = header.metadata().as_ref().and_then(|m| m.get(METADATA_KEY));
        let (config, mixer) = parse_metadata(entry.map_or("", String::as_str))?;
        let file = SafeTensors::deserialize(bytes).map_err(container)?;
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        let mixer = mixer.then(|| read_mixer(&file)).transpose()?;
        Ok(Model {
            mixer,
            ..Self::build(id, config, kernel, &file)?
        })
    }

    fn build(
        id: [u8; 16],
        config: Config,
        kernel: Kernel,
        file: &SafeTensors<'_>,
    ) -> Result<Self, EngineError> {
        let (d, ffn, rate) = (
            config.d(),
            config.ffn(),
            config.compressive_memory.compression_rate,
        );
        let inconsistent =
            || EngineError::Config("tensors do not fit the configuration".to_string());
        let pack = |t: &[i8], k: usize| Packed::new(t.chunks_exact(k), k);
        // One tensor at a time, in the order of the shapes.
        let mut shapes = tensor_shapes(&config).into_iter();
        let mut next = || {
            let (name, shape) = shapes.next().ok_or_else(inconsistent)?;
            read(file, name, &shape)
        };
        let embedding = next()?;
        let mut layers = Vec::with_capacity(config.model.n_layers);
        for _ in 0..config.model.n_layers {
            let qkv = next()?;
            let (bias_recent, bias_memory) = (next()?, next()?);
            // (out, in, k) in the file; a slot's inputs lie position by position in the engine.
            let by_position: Vec<i8> = next()?
                .chunks_exact(d * rate)
                .flat_map(|row| {
                    (0..rate).flat_map(move |p| row.iter().skip(p).step_by(rate).copied())
                })
                .collect();
            layers.push(Layer {
                kv: pack(qkv.get(d * d..).ok_or_else(inconsistent)?, d),
                qkv: pack(&qkv, d),
                compress: pack(&by_position, d * rate),
                o: pack(&next()?, d),
                up: pack(&next()?, d),
                down: pack(&next()?, ffn),
                bias_recent,
                bias_memory,
            });
        }
        let head = pack(&next()?, d);
        Ok(Model {
            id,
            config,
            kernel,
            embedding,
            layers,
            head,
            mixer: None,
        })
    }

    /// The first weights of the codec's mixer, in the shape [`MIXER_SHAPE`], if the file has them.
    #[must_use]
    pub fn mixer(&self) -> Option<&[i16]> {
        self.mixer.as_deref()
    }

    /// Content hash of the model file: the first 16 bytes of its BLAKE3 hash.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// The architecture.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The kernel that runs the model.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }
}

fn read(file: &SafeTensors<'_>, name: String, shape: &[usize]) -> Result<Vec<i8>, EngineError> {
    let expected = || format!("I8 {shape:?}");
    match file.tensor(&name) {
        Ok(t) if t.dtype() == Dtype::I8 && t.shape() == shape => {
            // -128 is no weight: sums are bounded for -127..=127.
            if t.data().contains(&0x80) {
                let got = "a weight of -128".to_string();
                return Err(EngineError::Tensor {
                    name,
                    expected: "weights from -127 to 127".to_string(),
                    got,
                });
            }
            Ok(t.data().iter().map(|&b| b as i8).collect())
        }
        Ok(t) => {
            let got = format!("{:?} {:?}", t.dtype(), t.shape());
            Err(EngineError::Tensor {
                name,
                expected: expected(),
                got,
            })
        }
        Err(_) => Err(EngineError::Tensor {
            name,
            expected: expected(),
            got: "none".to_string(),
        }),
    }
}

fn read_mixer(file: &SafeTensors<'_>) -> Result<Vec<i16>, EngineError> {
    let wrong = |got| EngineError::Tensor {
        name: MIXER.to_string(),
        expected: format!("I16 {MIXER_SHAPE:?}"),
        got,
    };
    match file.tensor(MIXER) {
        Ok(t) if t.dtype() == Dtype::I16 && t.shape() == MIXER_SHAPE => {
            let numbers = t.data().as_chunks().0.iter();
            Ok(numbers.map(|raw| i16::from_le_bytes(*raw)).collect())
        }
        Ok(t) => Err(wrong(format!("{:?} {:?}", t.dtype(), t.shape()))),
        Err(_) => Err(wrong("none".to_string())),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use safetensors::tensor::TensorView;
    use std::collections::HashMap;

    /// A model of this architecture with pseudo-random weights of realistic size, as a file.
    pub(crate) fn random_file(config: &Config, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as i32
        };
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = tensor_shapes(config)
            .into_iter()
            .map(|(name, shape)| {
                let width = if name.contains("bias") { 40 } else { 25 };
                let len = shape.iter().product();
                let data = (0..len)
                    .map(|_| (draw() % (2 * width + 1) - width) as i8 as u8)
                    .collect();
                (name, shape, data)
            })
            .collect();
        to_file(config, &tensors)
    }

    pub(crate) fn to_file(config: &Config, tensors: &[(String, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
        let views: Vec<(&str, TensorView<'_>)> = tensors
            .iter()
            .map(|(n, s, d)| {
                (
                    n.as_str(),
                    TensorView::new(Dtype::I8, s.clone(), d).unwrap(),
                )
            })
            .collect();
        let metadata =
            HashMap::from([(METADATA_KEY.to_string(), metadata(config, false).unwrap())]);
        safetensors::serialize(views, Some(metadata)).unwrap()
    }

    /// The model of `file` with a tensor for the mixer, if there is to be one, as a file that is to have one.
    pub(crate) fn with_mixer(file: &[u8], mixer: Option<(Dtype, &[usize], &[u8])>) -> Vec<u8> {
        let config = Model::from_bytes(file).unwrap().config().clone();
        let file = SafeTensors::deserialize(file).unwrap();
        let mut views = file.tensors();
        if let Some((dtype, shape, bytes)) = mixer {
            let view = TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
            views.push((MIXER.to_string(), view));
        }
        let metadata = metadata(&config, true).unwrap();
        let metadata = HashMap::from([(METADATA_KEY.to_string(), metadata)]);
        safetensors::serialize(views, Some(metadata)).unwrap()
    }

    pub(crate) fn small_config() -> Config {
        serde_json::from_str(
            r#"{"model":{"d_model":32,"n_layers":2,"n_heads":2,"n_kv_heads":1,"ffn":64},
                "compressive_memory":{"window_size":9,"compression_rate":4,"max_compressed_len":5}}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_model_file_is_read_and_named_by_its_content() {
        let file = random_file(&small_config(), 1);
        let model = Model::from_bytes(&file).unwrap();
        assert_eq!(model.id(), blake3::hash(&file).as_bytes()[..16]);
        assert_eq!(model.config(), &small_config());
    }

    #[test]
    fn first_weights_of_the_mixer_are_read_and_must_fit() {
        let file = random_file(&small_config(), 1);
        assert_eq!(Model::from_bytes(&file).unwrap().mixer(), None);
        let numbers = (0..256i16).flat_map(|i| (i * 127 - 16000).to_le_bytes());
        let bytes: Vec<u8> = numbers.collect();
        let of = |mixer| Model::from_bytes(&with_mixer(&file, mixer));
        let model = of(Some((Dtype::I16, &MIXER_SHAPE, &bytes))).unwrap();
        let read = model.mixer().unwrap();
        assert_eq!((read.len(), read[0], read[200]), (256, -16000, 9400));
        for wrong in [
            None,
            Some((Dtype::I16, &[2, 2, 63][..], &bytes[..504])),
            Some((Dtype::I16, &[2, 64, 2], &bytes)),
            Some((Dtype::U16, &MIXER_SHAPE, &bytes)),
            Some((Dtype::I8, &MIXER_SHAPE, &bytes[..256])),
        ] {
            let refused = of(wrong).err();
            let name =
                |e: &EngineError| matches!(e, EngineError::Tensor { name, .. } if name == MIXER);
            assert!(refused.as_ref().is_some_and(name), "{refused:?}");
        }
    }

    #[test]
    fn damaged_files_end_in_an_error_or_in_another_model() {
        let file = random_file(&small_config(), 2);
        let id = Model::from_bytes(&file).unwrap().id();
        for cut in (0..file.len()).step_by(97).chain(0..400) {
            assert!(Model::from_bytes(&file[..cut]).is_err(), "cut at {cut}");
        }
        let mut copy = file.clone();
        for at in (0..file.len()).step_by(211).chain(0..2000) {
            for bit in [1, 0x10, 0x80] {
                copy[at] ^= bit;
                if let Ok(m) = Model::from_bytes(&copy) {
                    assert_ne!(m.id(), id);
                }
                copy[at] ^= bit;
            }
        }
    }

    #[test]
    fn a_hostile_configuration_is_refused_before_it_costs_memory() {
        let file = random_file(&small_config(), 3);
        let mut huge = small_config();
        huge.compressive_memory.max_compressed_len = usize::MAX;
        assert!(matches!(
            Model::from_bytes(&to_file(&huge, &[])),
            Err(EngineError::Config(_))
        ));
        let mut wide = small_config();
        wide.model.n_layers = 64;
        assert!(matches!(
            Model::from_bytes(&to_file(&wide, &[])),
            Err(EngineError::Tensor { .. })
        ));
        assert!(matches!(
            Model::from_bytes(b"nothing"),
            Err(EngineError::Container(_))
        ));
        let at = file.windows(9).position(|w| w == br#"version\""#).unwrap();
        let mut later = file;
        later[at + 10] = b'3';
        let refused = EngineError::Version {
            expected: 2,
            got: Some(3),
        };
        assert_eq!(Model::from_bytes(&later).err(), Some(refused));
    }
}
