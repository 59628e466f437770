//! Nobody gets in who doesn't belong, and nobody who is let in can ask for more than there is.

#[path = "access/authority.rs"]
mod authority;
#[path = "access/site.rs"]
mod site;

#[path = "access/crowd.rs"]
mod crowd;
#[path = "access/reflection.rs"]
mod reflection;
#[path = "access/tls.rs"]
mod tls;
#[path = "access/tokens.rs"]
mod tokens;
#[path = "access/wire.rs"]
mod wire;
