"""What ``headwater doctor`` looks at: every setting and every dependency, each with what to do about it."""
