//! The templates that come with the program.

/// The templates that come with the program: `(name, text)`.
pub fn shipped() -> &'static [(&'static str, &'static str)] {
    macro_rules! meters {
        ($($name:literal),* $(,)?) => {
            &[$(($name, include_str!(concat!("../../../config/meters/", $name, ".toml")))),*]
        };
    }
    meters!["eastron-sdm120", "eastron-sdm220", "eastron-sdm230", "eastron-sdm54", "eastron-sdm630", "eastron-sdm72v2",]
}
