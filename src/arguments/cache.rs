//! Where results of earlier builds come from, and where those of this one go.

use clap::Args;

/// Caches.
#[derive(Debug, Args)]
pub(crate) struct CacheArguments {
    /// Run the steps of these stages anew
    #[arg(long, value_name = "STAGE[,STAGE]", value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,
    /// A cache to look in as well: a reference, `type=registry,ref=NAME` (also an image that carries one) or
    /// `type=local,src=DIR`, with `mounts=true` or `mounts=ID;ID` what cache mounts held, too; may be repeated
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache_from: Vec<String>,
    /// Where to carry the cache of this build: a reference, `type=registry,ref=NAME`, `type=local,dest=DIR` or
    /// `type=inline` (into the image); with `mode=max` all steps' results, with `mounts=true` or `mounts=ID;ID`
    /// what cache mounts hold, too; may be repeated
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache_to: Vec<String>,
}
