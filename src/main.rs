//! `keybound`: lets a request through only with a valid access token and proof of the key to
//! which the token is bound.

fn main() {}
