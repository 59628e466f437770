//! Secrets of workers: drawn from the system, handed out once, kept only as digests.

use quern_machine::SecretDigest;

/// A new secret, 256 random bits in hexadecimal digits.
///
/// # Errors
/// When the system has no randomness to give.
pub(crate) fn draw() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What is kept of a secret.
pub(crate) fn digest(secret: &str) -> SecretDigest {
    SecretDigest(blake3::hash(secret.as_bytes()).to_hex().to_string())
}
