//! The JSON that lies beside weights.

use quern_fuzz::Target;
use quern_models::blip::BlipConfig;
use quern_models::clip::ClipConfig;
use quern_models::preprocessor::PreprocessorConfig;
use quern_models::weights::read_json;

#[test]
fn preprocessors() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("preprocessor_config.json");
    let target = Target::new("preprocessors");
    let target = target.seeds_of("zoo/blip", "preprocessor_config.json");
    target.seeds_of("zoo/clip", "preprocessor_config.json").cases(3000).run(|bytes| {
        std::fs::write(&path, bytes).expect("the folder can be written");
        let Ok(config) = PreprocessorConfig::read(&path) else { return };
        let (width, height) = config.output_size();
        assert!(width > 0 && height > 0, "an image has pixels");
        assert!(config.std.iter().all(|&std| std != 0.0 && std.is_finite()), "pixels are divided by {:?}", config.std);
    });
}

#[test]
fn configs() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.json");
    let target = Target::new("configs").seeds_of("zoo/blip", "/config.json").seeds_of("zoo/clip", "/config.json");
    target.cases(3000).run(|bytes| {
        std::fs::write(&path, bytes).expect("the folder can be written");
        let _ = read_json::<BlipConfig>(&path);
        let _ = read_json::<ClipConfig>(&path);
    });
}
