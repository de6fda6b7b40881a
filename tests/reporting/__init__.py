"""Tests of reporting: statistics, tables and figures from record files alone."""
