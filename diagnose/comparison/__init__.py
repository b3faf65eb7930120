"""Before against after: what changed, beside what sampling one model twice would show."""
