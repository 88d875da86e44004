"""What users read after a run: tables, figures, pages."""
