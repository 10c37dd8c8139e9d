//! COPY --link: one layer put on top of another tree.
