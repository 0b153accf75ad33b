"""The statements, by what they are about. One statement, one function; the organization comes first.

A function takes a connection and says by its docstring which kind it needs: one of `Database.organization` (it
sees that organization only), of `Database.worker`, or the one a group commit writes with.
"""
