//! The templates that come with the program.

/// The templates that come with the program: `(name, text)`.
pub fn shipped() -> &'static [(&'static str, &'static str)] {
    macro_rules! meters {
        ($($name:literal),* $(,)?) => {
            &[$(($name, include_str!(concat!("../../../config/meters/", $name, ".toml")))),*]
        };
    }
    meters![
        "abb-a43",
        "abb-a44",
        "abb-b23",
        "abb-b24",
        "carlo-gavazzi-em24",
        "carlo-gavazzi-em24-e1",
        "carlo-gavazzi-em330",
        "carlo-gavazzi-em340",
        "eastron-sdm120",
        "eastron-sdm220",
        "eastron-sdm230",
        "eastron-sdm54",
        "eastron-sdm630",
        "eastron-sdm72v2",
        "inepro-pro380",
        "janitza-b-series",
        "janitza-umg604",
        "janitza-umg96rme",
        "schneider-iem3000",
        "schneider-pm5000",
        "siemens-7kt1665",
        "siemens-pac2200",
        "siemens-pac3200",
        "socomec-countis-e23",
        "socomec-countis-e24",
        "socomec-countis-e34",
        "socomec-diris-a10",
        "socomec-diris-a14",
        "solaredge",
        "sunspec",
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_manual_lists_every_shipped_template() {
        let manual = include_str!("../../../docs/templates.md");
        let row = |name: &str| manual.contains(&format!("\n| `{name}` | "));
        let unlisted: Vec<&str> = super::shipped().iter().map(|(name, _)| *name).filter(|name| !row(name)).collect();
        assert!(unlisted.is_empty(), "not in docs/templates.md: {unlisted:?}");
    }
}
