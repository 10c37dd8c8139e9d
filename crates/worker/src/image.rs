//! Images as inputs: resolving them, and pulling their layers when a step needs the files.
